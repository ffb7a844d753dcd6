"""DeepSpeed with the checkpoints of all other strategies: the same adapter file, and beside it the shares that DeepSpeed needs.

DeepSpeed splits the optimizer's state (stage 2) and all weights (stage 3) over the processes, and each process writes its share.
What is trained is gathered besides, in 32 bits, so that a run can be generated with and evaluated like any other.
"""

import shutil
from collections.abc import Iterator, Mapping
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

GENERATING = -1
"""Stands for generation among the numbers of DeepSpeed's modules that use a parameter."""


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
        """Has stage 3 keep the field's weights whole from the begin of a training step to the end of its backward pass: the field
        computes its gradient from them directly, where no layer's call has them gathered."""
        if self.zero_stage_3:
            import deepspeed  # it comes with an extra

            for parameter in self.lightning_module.field.parameters():
                deepspeed.zero.register_external_parameter(self.lightning_module, parameter)
        super().init_deepspeed()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """All processes generate together inside of the block.

        In a training step DeepSpeed notices weights that are read outside of their layer's call. Here there is none around, so
        stage 3 has all that generates whole in every process for as long.
        """
        if not self.zero_stage_3:
            yield
            return
        import deepspeed

        module = self.lightning_module
        parts = (module.generator, module.field, module.prompt_encoder)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        with deepspeed.zero.GatheredParameters(parameters):
            for parameter in parameters:  # a layer that was called would give up its weights, were nobody else using them
                parameter.ds_active_sub_modules.add(GENERATING)
            try:
                yield
            finally:
                for parameter in parameters:
                    parameter.ds_active_sub_modules.discard(GENERATING)

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
