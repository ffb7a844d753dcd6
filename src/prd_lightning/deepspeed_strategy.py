"""DeepSpeed with the checkpoints of all other strategies: the same adapter file, and beside it the shares that DeepSpeed needs.

DeepSpeed splits the optimizer's state (stage 2) and all weights (stage 3) over the processes, and each process writes its share.
What is trained is gathered besides, in 32 bits, so that a run can be generated with and evaluated like any other.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from prd_lightning.callbacks.checkpoint_folder import partial_folder, put_in_place, read_checkpoint, write_checkpoint
from prd_lightning.shards import check_sharding, write_shards
from prd_lightning.strategies import deepspeed_stage
from prd_lightning.text import PromptEncoder


class WholeBatchPrecision(DeepSpeedPrecision):
    """Lightning's plugin, which would convert the numbers of a batch one by one, and refuses batches that cannot be changed."""

    def convert_input(self, data: Any) -> Any:
        """Nothing: prompts and cameras are the same in any precision."""
        return data


class AdapterDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's strategy; a checkpoint is a folder with an adapter file, and appears under its name when it is complete.

    Args:
        settings: see ``lightning.pytorch.strategies.DeepSpeedStrategy``. Frozen weights are never saved.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"exclude_frozen_parameters": True, **settings})

    @property
    def precision_plugin(self) -> Precision:
        """See ``WholeBatchPrecision``."""
        return self._precision_plugin if self._precision_plugin is not None else Precision()

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        self._precision_plugin = WholeBatchPrecision(plugin.precision) if isinstance(plugin, DeepSpeedPrecision) else plugin

    def init_deepspeed(self) -> None:
        """Has stage 3 leave whole what the processes do not call alike: each must gather the same weights at the same time.

        A text encoder runs for the prompts that its process has not met yet, so it stays out of DeepSpeed's sight. How often the
        field's layers run depends on the shape, so the training step as a whole gathers them, from its begin to the end of its
        backward pass; the field computes its gradient from their weights besides, where no layer's call has them gathered.
        """
        if not self.zero_stage_3:
            super().init_deepspeed()
            return
        import deepspeed  # it comes with an extra

        module = self.lightning_module
        for parameter in module.field.parameters():
            deepspeed.zero.register_external_parameter(module, parameter)
        hide_text_encoders(module)
        super().init_deepspeed()
        kind = next(module.generator.parameters()).dtype
        for encoder in prompt_encoders(module):
            encoder.text_encoder.to(self.root_device, kind)  # as DeepSpeed does with what it sees
        take_hooks(module.field)

    @contextmanager
    def generating(self) -> Iterator[None]:
        """All processes enter together, and each generates what it likes inside of the block.

        Stage 3 has all that generates whole in every process for as long, without the hooks by which layers gather weights and
        give them up again: the first process alone may render, and all must follow one order of layers after the block.
        """
        if not self.zero_stage_3:
            yield
            return
        import deepspeed

        module = self.lightning_module
        module.to(self.root_device)  # Lightning takes it away when a training ends
        with deepspeed.zero.GatheredParameters([*module.generator.parameters(), *module.field.parameters()]):
            taken = take_hooks(module.generator)
            try:
                yield
            finally:
                for hooks, own in taken:
                    hooks.update(own)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Writes the folder ``filepath``, which all processes must see; every process calls it.

        Raises:
            OutputNotWritableError: the disk is full or the place cannot be written; an earlier checkpoint stays.
        """
        path = Path(self.broadcast(filepath))
        state = {key: value for key, value in checkpoint.items() if key != "optimizer_states"}
        with partial_folder(path) as partial:
            if self.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            self.barrier()
            super().save_checkpoint({}, partial, storage_options)
            tensors = gathered(self.lightning_module, checkpoint["state_dict"], keep=self.is_global_zero)
            self.barrier()  # every process has written its share
            if self.is_global_zero:
                write_checkpoint(state | {"state_dict": tensors}, partial)
                write_shards(partial, deepspeed_stage(self), self.world_size)
                put_in_place(partial, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Gives every process its share of weights and optimizer; returns the rest of what was saved.

        Raises:
            MissingWeightsError, CheckpointFormatError: as ``read_checkpoint``.
            ConfigurationError: another strategy, stage or number of processes wrote it.
        """
        check_sharding(Path(checkpoint_path), deepspeed_stage(self), self.world_size)
        state = read_checkpoint(checkpoint_path)
        super().load_checkpoint(checkpoint_path, weights_only)
        return {key: value for key, value in state.items() if key != "state_dict"}


def prompt_encoders(module: nn.Module) -> list[PromptEncoder]:
    """Those of the generator and of the teachers."""
    return [part for part in module.modules() if isinstance(part, PromptEncoder)]


def hide_text_encoders(module: nn.Module) -> None:
    """Leaves text encoders with their owners as plain attributes: they and their weights are no part of ``module`` any more."""
    for encoder in prompt_encoders(module):
        if "text_encoder" in encoder._modules:
            vars(encoder)["text_encoder"] = encoder._modules.pop("text_encoder")


def take_hooks(module: nn.Module) -> list[tuple[dict[int, Callable], dict[int, Callable]]]:
    """Takes DeepSpeed's hooks off all layers; returns each layer's hooks that are left, and those to add to them again."""
    taken = []
    for layer in module.modules():
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            own = {key: hook for key, hook in hooks.items() if hook.__module__.startswith("deepspeed.")}
            for key in own:
                del hooks[key]
            taken.append((hooks, own))
    return taken


@torch.no_grad()
def gathered(module: nn.Module, tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The whole tensors of a module's state, whatever share of them this process holds. Every process calls it.

    Args:
        module: an engine of DeepSpeed trains it.
        tensors: of its state by name, maybe parts of them or in half precision; a buffer is whole everywhere.
        keep: whether this process is to have them, in main memory; another one gets nothing.
    """
    from deepspeed.utils import safe_get_full_fp32_param  # it comes with an extra

    parameters = dict(module.named_parameters())
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        full = safe_get_full_fp32_param(parameters[name]) if name in parameters else value
        if keep:
            whole[name] = full.detach().cpu().clone()
    return whole
