"""Two processes: one gradient synchronisation per optimizer step, of what is trained alone; equal weights, different prompts.

The test starts this file twice as a script, as a launcher would.
"""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

UNROLL_STEPS, OPTIMIZER_STEPS = 3, 2


def train(folder: Path) -> None:
    """One rank's training; writes what it saw to ``folder``."""
    import lightning
    import torch
    from lightning.pytorch.strategies import DDPStrategy
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from prd_lightning.architecture import Architecture
    from prd_lightning.cameras import CameraSettings
    from prd_lightning.data import ListPrompts, PromptDataModule
    from prd_lightning.module import PRDModule
    from prd_lightning.rendering import VolumeRenderer
    from prd_lightning.tinyworld.oracle import OracleTeacher

    synchronized: list[int] = []
    reduced: list[int] = []
    broadcast: list[int] = []
    prompts: list[str] = []
    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Recorder(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            trainer.strategy.model.register_comm_hook(None, counting_hook)  # Lightning registers hooks on CUDA only

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            prompts.extend(batch.prompts)

    def counting_hook(state: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reduced.append(bucket.buffer().numel() * bucket.buffer().element_size())
        if bucket.is_last():
            synchronized.append(len(prompts))
        return allreduce_hook(state, bucket)

    send = torch.distributed._broadcast_coalesced

    def counting_broadcast(group: Any, tensors: list[torch.Tensor], *given: Any) -> None:
        broadcast.append(sum(value.numel() * value.element_size() for value in tensors))
        send(group, tensors, *given)

    torch.distributed._broadcast_coalesced = counting_broadcast
    module = PRDModule(
        Architecture("tinyworld:stable_diffusion", plane_channels=8, rank=2, latent_size=8, hidden=16),
        {"volume": VolumeRenderer(8, None, proposal_samples=8, fine_samples=6, bounding_radius=1.0, color_samples=3)},
        {"oracle": OracleTeacher(renderers=("volume",))},
        partial(torch.optim.SGD, lr=0.1),
        unroll_steps=UNROLL_STEPS,
    )
    strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=OPTIMIZER_STEPS,
        accumulate_grad_batches=UNROLL_STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Recorder()],
    )
    source = ListPrompts(["a red cube", "a green torus", "a blue cone", "a pink dome"])
    trainer.fit(module, PromptDataModule(source, 1, UNROLL_STEPS, CameraSettings(views_per_prompt=2)))
    total = sum(float(value.double().sum()) for value in module.trainable_state_dict().values())
    report = {"synchronized": synchronized, "prompts": prompts, "total": total, "steps": trainer.global_step}
    report |= {"reduced": sum(reduced), "broadcast": sum(broadcast)}
    report["trained"] = sum(value.numel() * value.element_size() for value in module.trainable_parameters())
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))


@pytest.mark.slow
def test_one_synchronisation_per_optimizer_step(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)],
            env={
                **os.environ,
                **shared,
                "LOCAL_RANK": str(rank),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            output, _ = rank.communicate(timeout=240)
            assert rank.returncode == 0, output
    finally:
        for rank in ranks:
            rank.kill()
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    expected = [UNROLL_STEPS * (step + 1) for step in range(OPTIMIZER_STEPS)]
    assert first["synchronized"] == second["synchronized"] == expected, "on the last micro-batch of a cycle, and never before"
    assert first["steps"] == second["steps"] == OPTIMIZER_STEPS
    assert first["total"] == second["total"]
    assert first["reduced"] == second["reduced"] == OPTIMIZER_STEPS * first["trained"], "bytes of the trained values, once a step"
    assert first["broadcast"] == first["trained"], "the frozen base and text encoder are loaded by each process, not sent"
    assert first["prompts"] == ["a red cube"] * UNROLL_STEPS + ["a blue cone"] * UNROLL_STEPS
    assert second["prompts"] == ["a green torus"] * UNROLL_STEPS + ["a pink dome"] * UNROLL_STEPS


if __name__ == "__main__":
    train(Path(sys.argv[1]))
