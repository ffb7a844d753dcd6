"""Training with the frozen networks sharded over the processes (FSDP2), on GPUs and on CPU.

What is trained is a few per cent of the weights, so it stays whole in every process, and its gradients are averaged once per
optimizer step, in one piece. The frozen rest, the generator's base and the teachers' networks, is split among the processes with
``fully_shard``; each block is gathered for as long as it computes. Optimizers, averages and checkpoints therefore are those of a
single process.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, ParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from prd_lightning.errors import ConfigurationError, PRDError, ProcessGroupError

DEFAULT_TIMEOUT = timedelta(minutes=30)
GROUP_FAILURES = ("gloo", "nccl", "tcpstore", "connection closed by peer", "connection reset by peer", "timed out", "timeout")
"""What PyTorch's messages say when another process is gone or does not answer."""


class ShardedBaseStrategy(ModelParallelStrategy):
    """FSDP2 for frozen weights; trained ones are replicated.

    Args:
        process_group_backend: ``nccl`` or ``gloo``; None for what fits the device.
        timeout: after which a process that waits for another one gives up.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend, timeout=timeout)

    def setup_environment(self) -> None:
        """All processes share the weights, whatever their number."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Any) -> None:
        """Gives every process the trained weights of the first one; the module shards the others in ``configure_model``."""
        super().setup(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            for value in _replicated(self.model.parameters()):
                torch.distributed.broadcast(value.data, 0)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Trained weights are plain tensors at any time."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizer states are those of a single process."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: the module itself adds what it trains, see ``PRDModule.on_save_checkpoint``."""
        return {}

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *given: Any, **named: Any) -> Any:
        """A step with the gradients' mean over the processes: once for all micro-batches of the step."""

        def averaged() -> Any:
            loss = closure()
            average_gradients(_replicated(self.model.parameters()))
            return loss

        return super().optimizer_step(optimizer, averaged, *given, **named)

    optimizer_state = ParallelStrategy.optimizer_state
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict
    load_model_state_dict = ParallelStrategy.load_model_state_dict
    save_checkpoint = ParallelStrategy.save_checkpoint
    load_checkpoint = ParallelStrategy.load_checkpoint


def shard_frozen(module: nn.Module, networks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Splits the frozen parameters of ``networks`` over ``mesh``, block by block.

    Args:
        module: that owns the networks; its trained parameters stay whole.
        networks: are called through ``forward`` alone.
        mesh: one-dimensional.
    """
    whole = set(_replicated(module.parameters()))
    for network in networks:
        if isinstance(network, FSDPModule):  # two teachers may share it
            continue
        for block in _blocks(network):
            fully_shard(block, mesh=mesh, ignored_params=whole)
        fully_shard(network, mesh=mesh, ignored_params=whole)


def shards_networks(strategy: Strategy) -> bool:
    """Whether a network computes only if all processes call it."""
    return isinstance(strategy, ShardedBaseStrategy) or deepspeed_stage(strategy) == 3


def deepspeed_stage(strategy: Strategy) -> int | None:
    """The stage of ZeRO, 0 where DeepSpeed splits nothing; None without DeepSpeed."""
    if not isinstance(strategy, DeepSpeedStrategy):
        return None
    return int(strategy.config.get("zero_optimization", {}).get("stage", 0))


def check_whole(strategy: Strategy, setting: str) -> None:
    """Refuses a setting that needs whole trained weights in every process, and an optimizer that sees them.

    Raises:
        ConfigurationError: the strategy has the optimizer work on shards or copies of them.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        raise ConfigurationError(
            f"{setting} does not work with DeepSpeed, whose optimizer sees flat copies of the weights; "
            "take strategy=ddp, or strategy=fsdp, which shards what is frozen"
        )


@contextmanager
def group_failures_named(world_size: int) -> Iterator[None]:
    """Says in plain words that another one of ``world_size`` processes is the cause.

    Raises:
        ProcessGroupError: PyTorch found another process gone, or waited for it in vain.
    """
    try:
        yield
    except RuntimeError as error:
        is_named = isinstance(error, torch.distributed.DistError) or any(mark in str(error).lower() for mark in GROUP_FAILURES)
        if world_size == 1 or isinstance(error, PRDError) or not is_named:
            raise
        raise ProcessGroupError(
            "another process of this training failed, was killed, or did not answer within strategy.strategy.timeout; "
            f"its own output has the cause (here: {str(error).splitlines()[0]})"
        ) from error


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces the gradients of all processes by their mean, in one reduction.

    A gradient that some process has counts as zero where there is none. One that no process has stays away: optimizers leave
    such a parameter alone, while a zero gradient would still move it by decay and momentum.
    """
    parameters = list(parameters)
    found = torch.tensor([value.grad is not None for value in parameters], dtype=torch.uint8, device=parameters[0].device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    gradients = [value.grad if value.grad is not None else torch.zeros_like(value) for value in parameters]
    for kind in dict.fromkeys(gradient.dtype for gradient in gradients):
        chosen = [index for index, gradient in enumerate(gradients) if gradient.dtype == kind]
        flat = torch.cat([gradients[index].flatten() for index in chosen])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        for index, part in zip(chosen, flat.split([gradients[index].numel() for index in chosen])):
            if found[index]:
                parameters[index].grad = part.view_as(parameters[index]).clone()


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a diffusion network that are gathered one after another."""
    stacks = [getattr(network, name, None) for name in ("down_blocks", "up_blocks")]
    blocks = [block for stack in stacks if stack is not None for block in stack]
    middle = getattr(network, "mid_block", None)
    return blocks if middle is None else [*blocks, middle]


def _replicated(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [value for value in parameters if value.requires_grad]
