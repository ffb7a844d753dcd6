"""What the data module yields."""

from dataclasses import dataclass, replace

import torch

from prd_lightning.cameras import Cameras


@dataclass(frozen=True)
class PromptBatch:
    """One micro-batch: one unroll step of one cycle.

    Attributes:
        prompts: B prompts, the same through all steps of a cycle.
        cameras: V = B * views cameras, fresh in each step.
        unroll_step: 0 ... K - 1.
        noise_seed: of the noise of this step, a function of the data's seed, the rank, the cycle and the step.
    """

    prompts: list[str]
    cameras: Cameras
    unroll_step: int
    noise_seed: int

    def to(self, device: torch.device | str) -> "PromptBatch":
        """The batch with its cameras on another device."""
        return replace(self, cameras=self.cameras.to(device))
