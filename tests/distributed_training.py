"""A training of a few steps, in one process or as one rank of several, and what each rank saw.

Everything runs in 64 bits: what is left between one process and several is rounding of some 1e-15, so that any difference in how
losses, draws or gradients are shared out stands out. DeepSpeed, which wants 32 bits, is compared with others in 32 bits.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from traffic import bytes_on_wire, counted_collectives

UNROLL_STEPS, PROMPTS_A_STEP, VIEWS = 2, 2, 2
PROMPTS = ("a red cube", "a green torus", "a blue cone", "a pink dome")
GENERATED = ("a white cube",)
processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Run:
    """One training. Its processes together take two prompts a step, whatever their number.

    Attributes:
        name: of the files that it writes.
        strategy: ``auto``, ``ddp``, ``fsdp`` or ``deepspeed_stage_N``.
        world_size: processes.
        steps: optimizer steps.
        saved_at: steps after which a checkpoint ``NAME_STEP`` is kept, beside the last one.
        checkpoint: name of the one to go on from.
        previews: whether to draw sheets, and to generate when all is done.
        fault: of rank 1: ``raise``, ``kill`` or ``stall`` after the second micro-batch, ``missing`` for a teacher's files.
        timeout: of a process that waits for another one, in seconds.
        plain: 32 bits, one learning rate and no average, as DeepSpeed wants it.
    """

    name: str
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3"] = "auto"
    world_size: int = 1
    steps: int = 20
    saved_at: tuple[int, ...] = ()
    checkpoint: str | None = None
    previews: bool = False
    fault: Literal["raise", "kill", "stall", "missing"] | None = None
    timeout: float = 600
    plain: bool = False


def build_module(teacher: str, plain: bool) -> Any:
    """Latents 4x4, a network and the exact teacher, random shifts, a patch, a bounding ball, colour with a rate of its own, a
    scheduled learning rate."""
    import torch

    from prd_lightning.architecture import Architecture
    from prd_lightning.module import PRDModule
    from prd_lightning.rendering import VolumeRenderer
    from prd_lightning.teachers import NormalDepthTeacher
    from prd_lightning.teachers.loading import load_denoiser
    from prd_lightning.tinyworld.oracle import OracleTeacher

    torch.manual_seed(0)
    settings = {"views": VIEWS, "map_size": 4, "guidance_scale": 1.0, "weight": 0.01}
    module = PRDModule(
        Architecture("tinyworld:stable_diffusion", plane_channels=8, rank=2, latent_size=4, hidden=16),
        {"volume": VolumeRenderer(8, 6, 4, proposal_samples=8, fine_samples=6, bounding_radius=0.8, color_samples=3)},
        {
            "richdreamer": NormalDepthTeacher(*load_denoiser(teacher, cameras=True), **settings),
            "oracle": OracleTeacher(renderers=("volume",)),
        },
        partial(torch.optim.AdamW, lr=1e-3),
        unroll_steps=UNROLL_STEPS,
        loss_prompts=PROMPTS_A_STEP,
        sparsity_weight=0.1,
        learning_rate_factor=(0, 1.0, 0.5, 10),
        color_learning_rate_factor=1.0 if plain else 2.0,
    )
    return module if plain else module.double()


def build_trainer(run: Run, callbacks: list) -> Any:
    """The trainer, with the strategies as their configs make them, gradients clipped."""
    import lightning
    from deepspeed_cpu import strategy_on_cpu
    from lightning.pytorch.strategies import DDPStrategy

    from prd_lightning.callbacks import FolderCheckpointIO
    from prd_lightning.strategies import ShardedBaseStrategy

    common = {"process_group_backend": "gloo", "timeout": timedelta(seconds=run.timeout)}
    kinds = {"ddp": partial(DDPStrategy, find_unused_parameters=True), "fsdp": ShardedBaseStrategy}
    kinds |= {f"deepspeed_stage_{stage}": partial(strategy_on_cpu, stage) for stage in (2, 3)}
    return lightning.Trainer(
        accelerator="cpu",
        devices=run.world_size,
        strategy=kinds[run.strategy](**common) if run.strategy in kinds else run.strategy,
        max_steps=run.steps,
        accumulate_grad_batches=UNROLL_STEPS,
        gradient_clip_val=0.5,
        logger=False,
        plugins=[FolderCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )


def train(run: Run, folder: Path) -> None:
    """One rank's training; writes ``NAME_rankN.json`` and the checkpoint ``NAME`` into ``folder``."""
    import torch

    from prd_lightning.callbacks import PreviewCallback, WeightAveraging, averaged_weights
    from prd_lightning.cameras import CameraSettings
    from prd_lightning.data import ListPrompts, PromptDataModule
    from prd_lightning.rendering import MeshRenderer
    from prd_lightning.strategies import group_failures_named

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32 if run.plain else torch.float64)
    is_missing = run.fault == "missing" and os.environ["LOCAL_RANK"] == "1"
    module = build_module(str(folder / "absent") if is_missing else "tinyworld:richdreamer_nd", run.plain)
    recorder = make_recorder(run, folder)
    callbacks = [] if run.plain else [WeightAveraging(0.9)]
    if run.previews:
        callbacks.append(PreviewCallback(PROMPTS[:1], folder / f"{run.name}_run", MeshRenderer(8, 8), every_n_steps=0, views=1))
    trainer = build_trainer(run, [*callbacks, recorder])
    data = PromptDataModule(
        ListPrompts(list(PROMPTS)), PROMPTS_A_STEP // run.world_size, UNROLL_STEPS, CameraSettings(views_per_prompt=VIEWS)
    )
    with counted_collectives() as recorder.sizes:
        with group_failures_named(run.world_size):  # as ``prd train`` does
            trainer.fit(module, data, ckpt_path=run.checkpoint and folder / run.checkpoint)
    if run.previews:
        with averaged_weights(trainer, module):  # as the final evaluation does
            recorder.report["planes"] = module.eval().generate(GENERATED, [0]).geometry.flatten()[::97].tolist()
    trainer.save_checkpoint(folder / run.name)
    (folder / f"{run.name}_rank{trainer.global_rank}.json").write_text(json.dumps(recorder.report | {"sizes": sizes(module)}))


def sizes(module: Any) -> dict[str, int]:
    """Bytes of a module's parameters: all, those that this process holds, trained ones, and those of single networks."""

    def count(parameters: Any) -> int:
        return sum(value.numel() * value.element_size() for value in parameters)

    held = [value.to_local() if hasattr(value, "to_local") else value for value in module.parameters()]
    networks = [module.generator.unet, module.generator.decoder]
    own = [value for network in networks for value in network.parameters() if not value.requires_grad]
    found = {"all": module.parameters(), "held": held, "trained": module.trainable_parameters(), "generator": own}
    return {name: count(values) for name, values in found.items()} | {
        "teacher": count(module.teachers["richdreamer"].unet.parameters())
    }


def make_recorder(run: Run, folder: Path) -> Any:
    """A callback that records what a rank sees, saves checkpoints, and fails where it is to fail."""
    import lightning
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    class Recorder(lightning.Callback):
        sizes: dict[str, list[int]]

        def __init__(self) -> None:
            self.report: dict[str, Any] = {"losses": [], "prompts": [], "collectives": [], "on_wire": [], "reductions": []}
            self.seen = self.wire = 0

        def news(self) -> dict[str, list[int]]:
            """What was sent since the last call."""
            sent = {kind: values.copy() for kind, values in self.sizes.items()}
            for values in self.sizes.values():
                values.clear()
            return sent

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.report["at_start"], self.wire = self.news(), bytes_on_wire()
            if run.strategy == "ddp":
                trainer.strategy.model.register_comm_hook(None, self.reduce)  # Lightning registers hooks on CUDA only

        def reduce(self, state: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.report["reductions"].append(self.seen)
            return allreduce_hook(state, bucket)

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            self.report["prompts"].extend(batch.prompts)
            self.seen += 1
            if run.fault and trainer.global_rank == 1 and index == UNROLL_STEPS:
                fail(run)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            self.report["losses"].append(float(outputs["loss"]) * UNROLL_STEPS)
            if len(self.report["losses"]) % UNROLL_STEPS:
                return
            wire = bytes_on_wire()
            self.report["collectives"].append(self.news())
            self.report["on_wire"].append(wire - self.wire)
            if trainer.global_step in run.saved_at:
                trainer.save_checkpoint(folder / f"{run.name}_{trainer.global_step}")
                self.news()
            self.wire = bytes_on_wire()

    return Recorder()


def fail(run: Run) -> None:
    """What goes wrong on rank 1."""
    if run.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if run.fault == "stall":
        time.sleep(4 * run.timeout)
    raise RuntimeError("rank 1 has failed")


def run_ranks(run: Run, folder: Path, wait: float = 900) -> list[tuple[int | None, str]]:
    """Exit status and output of every rank of a training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(run.world_size)}
    processes.set_forkserver_preload(["prd_lightning.train", "torch.distributed.fsdp"])  # imports once, not in every process
    logs = [folder / f"{run.name}_rank{rank}.log" for rank in range(run.world_size)]
    ranks = [
        processes.Process(target=run_rank, args=(asdict(run), folder, log, shared | {"LOCAL_RANK": str(rank)}))
        for rank, log in enumerate(logs)
    ]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(wait)
        return [(rank.exitcode, log.read_text()) for rank, log in zip(ranks, logs, strict=True)]
    finally:
        for rank in ranks:
            rank.kill()


def run_rank(run: dict[str, Any], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """What a process of its own does: one rank's training, with its output in ``log``."""
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    status = 1
    try:
        train(Run(**run), folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a group whose members are gone cannot be left in order


def reports(run: Run, folder: Path) -> list[dict[str, Any]]:
    """What the ranks of a training that must succeed saw."""
    for status, output in run_ranks(run, folder):
        assert status == 0, output
    return [json.loads((folder / f"{run.name}_rank{rank}.json").read_text()) for rank in range(run.world_size)]
