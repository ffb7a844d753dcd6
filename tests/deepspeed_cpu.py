"""DeepSpeed's strategy in processes on a CPU.

Lightning wants CUDA for DeepSpeed, DeepSpeed itself does not (``DS_ACCELERATOR=cpu``, gloo). What Lightning refuses and checks of
CUDA's devices is left out here; everything else is what GPUs see.
"""

import os
from typing import Any


def strategy_on_cpu(stage: int, **settings: Any) -> Any:
    """The strategy of the configs, which accepts a CPU.

    Stage 3 splits weights of more than 1,000 values, those of networks and adapters, in place of 100,000. The field's are smaller
    either way, and must be whole: its gradient is computed from them directly.
    """
    os.environ["DS_ACCELERATOR"] = "cpu"  # before the first import of its library
    import torch
    from lightning.pytorch.strategies import DDPStrategy

    from prd_lightning.deepspeed_strategy import AdapterDeepSpeedStrategy

    class OnCPU(AdapterDeepSpeedStrategy):
        @property
        def root_device(self) -> torch.device:
            return torch.device("cpu", 0)  # with the number that a GPU has

        def setup_environment(self) -> None:
            DDPStrategy.setup_environment(self)

        def setup_distributed(self) -> None:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    strategy = OnCPU(stage=stage, **settings)
    strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 1000
    return strategy
