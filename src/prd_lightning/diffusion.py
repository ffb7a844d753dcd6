"""The noise schedule of a diffusion model and the timesteps of the unroll.

With ``abar`` the cumulative product of alphas (DDPM, Ho et al. 2020; DDIM, Song et al. 2021)::

    z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps
    z_0 = (z_t - sqrt(1 - abar_t) e) / sqrt(abar_t)
    z_s = sqrt(abar_s) z_0 + sqrt(1 - abar_s) e            (a deterministic DDIM step from t to s < t)

Some models predict the velocity (Salimans and Ho 2022, arXiv 2202.00512, appendix D) instead of the noise::

    v = sqrt(abar_t) eps - sqrt(1 - abar_t) z_0,    eps = sqrt(abar_t) v + sqrt(1 - abar_t) z_t
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError

PredictionType = Literal["epsilon", "v_prediction"]
"""What a network is trained to predict, in the words of diffusers' scheduler configurations."""


class NoiseSchedule(nn.Module):
    """Cumulative alphas of a diffusion model and the arithmetic on them.

    Args:
        alphas_cumprod: [T] decreasing values in (0, 1).
        final_alpha: the alpha of the clean end that a last DDIM step lands on.
        prediction_type: what the network predicts, see ``to_noise``.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        alphas_cumprod: Float[Tensor, " timesteps"],
        final_alpha: float | None = None,
        prediction_type: PredictionType = "epsilon",
    ) -> None:
        super().__init__()
        self.prediction_type = prediction_type
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        self.final_alpha = float(alphas_cumprod[0]) if final_alpha is None else final_alpha

    @classmethod
    def from_folder(cls, folder: str | Path) -> "NoiseSchedule":
        """Reads ``scheduler_config.json`` of a diffusers scheduler folder.

        Raises:
            MissingWeightsError: there is no such file.
            CheckpointFormatError: the model predicts neither noise nor velocity, or the file is not a scheduler configuration.
        """
        path = Path(folder) / "scheduler_config.json"
        if not path.is_file():
            raise MissingWeightsError(f"no noise schedule: {path} does not exist")
        try:
            config = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise CheckpointFormatError(f"{path} is not valid JSON: {error}") from error
        return cls.from_config(config, path)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str | Path) -> "NoiseSchedule":
        """From the values of a diffusers scheduler configuration; ``source`` is named in the message.

        Raises:
            CheckpointFormatError: the model predicts neither noise nor velocity.
        """
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in get_args(PredictionType):
            raise CheckpointFormatError(
                f"{source}: prediction_type is {prediction!r}; only models that predict noise ('epsilon') or velocity"
                " ('v_prediction') can be used"
            )
        known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one")
        scheduler = DDIMScheduler(**{key: config[key] for key in known if config.get(key) is not None})
        return cls(scheduler.alphas_cumprod.clone(), float(scheduler.final_alpha_cumprod), prediction)

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def levels(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(abar_t)`` and ``sqrt(1 - abar_t)``, shaped to multiply ``like`` ([B, ...]); ``t`` is a number or [B]."""
        alpha = self.alphas_cumprod.to(like)[t]
        if alpha.ndim:
            alpha = alpha.view(-1, *[1] * (like.ndim - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, clean: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """z_t of clean samples [B, ...]."""
        signal, sigma = self.levels(t, clean)
        return signal * clean + sigma * noise

    def velocity(self, clean: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """What a network that predicts the velocity has to say for z_t of ``clean`` and ``noise`` [B, ...]."""
        signal, sigma = self.levels(t, clean)
        return signal * noise - sigma * clean

    def to_noise(self, prediction: Tensor, noisy: Tensor, t: int | Tensor) -> Tensor:
        """The noise that a network's ``prediction`` [B, ...] for z_t says: itself, or what follows from a velocity."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, sigma = self.levels(t, noisy)
        return signal * prediction + sigma * noisy

    def predict_clean(self, noisy: Tensor, predicted_noise: Tensor, t: int | Tensor) -> Tensor:
        """The estimate of z_0 from z_t and the predicted noise."""
        signal, sigma = self.levels(t, noisy)
        return (noisy - sigma * predicted_noise) / signal

    def ddim_step(self, noisy: Tensor, predicted_noise: Tensor, t: int, t_previous: int) -> tuple[Tensor, Tensor]:
        """One deterministic step: (sample at ``t_previous``, estimate of z_0); a negative ``t_previous`` is the clean end."""
        clean = self.predict_clean(noisy, predicted_noise, t)
        alpha = float(self.alphas_cumprod[t_previous]) if t_previous >= 0 else self.final_alpha
        return alpha**0.5 * clean + (1 - alpha) ** 0.5 * predicted_noise, clean


def unroll_timesteps(steps: int, num_timesteps: int = 1000) -> list[int]:
    """K leading-spaced timesteps, shifted so that the first is T - 1: 4 of 1000 are [999, 749, 499, 249].

    Raises:
        ConfigurationError: ``steps`` is not between 1 and ``num_timesteps``.
    """
    if not 1 <= steps <= num_timesteps:
        raise ConfigurationError(f"steps must lie between 1 and {num_timesteps}, got {steps}")
    stride = num_timesteps // steps
    return [num_timesteps - 1 - index * stride for index in range(steps)]


def sample_unroll_timesteps(
    steps: int, num_substeps: int, num_timesteps: int = 1000, generator: torch.Generator | None = None
) -> list[int]:
    """One timestep of each of ``steps`` equal strata, decreasing, drawn from ``num_substeps`` evenly spaced ones.

    A stratum holds ``num_substeps // steps`` timesteps; those that are left over at the low end are never drawn.

    Raises:
        ConfigurationError: fewer substeps than steps.
    """
    if num_substeps < steps:
        raise ConfigurationError(f"num_train_substeps ({num_substeps}) must be at least the number of unroll steps ({steps})")
    every = unroll_timesteps(num_substeps, num_timesteps)
    size = num_substeps // steps
    offsets = [int(torch.randint(size, (1,), generator=generator)) if size > 1 else 0 for _ in range(steps)]
    return [every[index * size + offset] for index, offset in enumerate(offsets)]
