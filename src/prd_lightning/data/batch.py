"""What the data module yields."""

from dataclasses import dataclass, replace

import torch

from prd_lightning.cameras import Cameras
from prd_lightning.draws import PromptDraws


@dataclass(frozen=True)
class PromptBatch:
    """One micro-batch: one unroll step of one cycle.

    Attributes:
        prompts: B prompts, the same through all steps of a cycle.
        cameras: V = B * views cameras, fresh in each step.
        unroll_step: 0 ... K - 1.
        noise_seed: of what all prompts of an optimizer step share, a function of the data's seed, the cycle and the step.
        prompt_seeds: of each prompt's own noise, functions of the data's seed, the prompt's position in the stream and the step.
    """

    prompts: list[str]
    cameras: Cameras
    unroll_step: int
    noise_seed: int
    prompt_seeds: list[int]

    def draws(self, purpose: str) -> PromptDraws:
        """Random streams of this micro-batch; whatever is drawn for another purpose is unrelated."""
        return PromptDraws(self.noise_seed, self.prompt_seeds, purpose)

    def to(self, device: torch.device | str) -> "PromptBatch":
        """The batch with its cameras on another device."""
        return replace(self, cameras=self.cameras.to(device))
