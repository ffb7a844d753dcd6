"""What a teacher is, and the distillation that all diffusion teachers share.

A teacher scores rendered maps: it returns a gradient on the maps, never a graph. The networks run without gradients; autograd
only goes through what turns maps into the teacher's input (resizing, a VAE encoder), and that graph is freed before the
generator's is used (design section 6).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from prd_lightning.cameras import Cameras
from prd_lightning.diffusion import NoiseSchedule, unroll_timesteps
from prd_lightning.draws import Draws, integers, normal, uniform
from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import (
    LaterEstimate,
    Schedule,
    ShiftCurve,
    ShiftLimit,
    TimeShift,
    Weighting,
    check_weighting,
    distillation_gradient,
    picture_gradient,
    scheduled,
)
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers.exchange import TeacherInput, TeacherResult
from prd_lightning.text import PromptEncoder

RENDERERS = ("volume", "mesh")


class Teacher(nn.Module, ABC):
    """Scores rendered maps.

    Args:
        weight: scheduled factor of its loss.
        renderers: renderers whose maps it scores.

    Raises:
        ConfigurationError: an unknown renderer is named.
    """

    def __init__(self, weight: Schedule = 1.0, renderers: Sequence[str] = RENDERERS) -> None:
        super().__init__()
        scheduled(weight, 0)
        if unknown := set(renderers) - set(RENDERERS):
            raise ConfigurationError(f"unknown renderers {sorted(unknown)}; known: {', '.join(RENDERERS)}")
        self.weight, self.renderers = weight, tuple(renderers)

    @property
    def keeps_graph(self) -> bool:
        """Whether autograd keeps something while maps become this teacher's input, an encoder's activations for instance."""
        return False

    def scored(self, maps: Mapping[str, RenderedMaps]) -> dict[str, RenderedMaps]:
        """Those of the renderers that it scores."""
        return {name: rendered for name, rendered in maps.items() if name in self.renderers}

    def networks(self) -> list[nn.Module]:
        """Frozen networks that are called through ``forward`` alone and may be sharded over processes."""
        return []

    @abstractmethod
    def map_gradients(
        self,
        maps: Mapping[str, RenderedMaps],
        prompts: list[str],
        cameras: Cameras,
        step: int,
        generator: Draws = None,
    ) -> TeacherResult:
        """The loss of the maps of some renderers and its gradients.

        Args:
            maps: by renderer; V views, prompt-major.
            prompts: one for each V / B adjacent views.
            cameras: V cameras.
            step: optimizer steps done.
            generator: of the random draws (on the CPU), one for the batch or one for each prompt, see ``draws``.
        """


class DiffusionTeacher(Teacher):
    """A noise predictor as a teacher, by (asynchronous) score distillation.

    Args:
        unet: the noise predictor.
        prompt_encoder: its text encoder.
        schedule: its noise schedule.
        guidance_scale: scheduled s of classifier-free guidance.
        t_min, t_max: scheduled bounds of the noise level, as shares of T.
        weighting: w(t), see ``losses.distillation``.
        student: ``asd`` compares with the teacher's own prediction at a later time, ``sds`` with the noise.
        shift_ratio, shift_curve, shift_offset, shift_limit: the later time, see ``losses.TimeShift``.
        space: ``latent`` (published) or ``picture``, where weighting, student and time shift play no part.
        negative_prompt: text of e(0); empty for the unconditional prediction.
        weight, renderers: see ``Teacher``.

    Raises:
        ConfigurationError: unknown weighting, student, space or time shift, or bounds outside [0, 1].
    """

    map_names: tuple[str, ...]
    shares_time = True
    """Whether the samples of one prompt share a timestep."""
    times: Tensor | None = None
    """[N] noise levels that were drawn last, as shares of T."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prompt_encoder: PromptEncoder,
        schedule: NoiseSchedule,
        guidance_scale: Schedule,
        t_min: Schedule = (0, 0.5, 0.02, 20_000),
        t_max: Schedule = 0.98,
        weighting: Weighting = "dmd",
        student: Literal["asd", "sds"] = "asd",
        shift_ratio: float = 0.0,
        weight: Schedule = 1.0,
        renderers: Sequence[str] = RENDERERS,
        negative_prompt: str = "",
        shift_curve: ShiftCurve = "linear",
        shift_offset: float = 0.0,
        shift_limit: ShiftLimit = "before_draw",
        space: Literal["latent", "picture"] = "latent",
    ) -> None:
        super().__init__(weight, renderers)
        check_weighting(weighting)
        if student not in ("asd", "sds"):
            raise ConfigurationError(f"student must be 'asd' or 'sds', got {student!r}")
        if space not in ("latent", "picture"):
            raise ConfigurationError(f"space must be 'latent' or 'picture', got {space!r}")
        for name, value in (("t_min", t_min), ("t_max", t_max)):
            if not 0 <= scheduled(value, 0) <= 1:
                raise ConfigurationError(f"{name} is a share of the timesteps between 0 and 1, got {value}")
        self.unet, self.prompt_encoder, self.schedule = unet, prompt_encoder, schedule
        self.guidance_scale, self.t_min, self.t_max = guidance_scale, t_min, t_max
        self.weighting, self.student, self.negative_prompt = weighting, student, negative_prompt
        self.time_shift = TimeShift(shift_ratio, shift_curve, shift_offset, shift_limit)
        self.space = space
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "DiffusionTeacher":
        """Stays in evaluation mode: teachers are frozen."""
        return super().train(False)

    def networks(self) -> list[nn.Module]:
        """See ``Teacher.networks``."""
        vae = getattr(self, "vae", None)
        return [self.unet] if vae is None else [self.unet, vae.encoder, vae.decoder]

    @property
    def loss_share(self) -> float:
        """Factor of the summed squared gradient in the loss; the multi-view teachers divide by their views."""
        return 1.0

    @abstractmethod
    def prepare(
        self, maps: list[dict[str, Tensor]], prompts: list[str], cameras: Cameras, generator: Draws
    ) -> TeacherInput:
        """The teacher's input of the maps of one or two renderers, concatenated; [V, H, W, C] tensors by name."""

    def decode(self, clean: Tensor) -> Tensor:
        """Pictures [N, C', H, W] in [0, 1] of clean samples: here the samples themselves."""
        return clean.clamp(0, 1)

    def map_gradients(
        self,
        maps: Mapping[str, RenderedMaps],
        prompts: list[str],
        cameras: Cameras,
        step: int,
        generator: Draws = None,
    ) -> TeacherResult:
        """See ``Teacher.map_gradients``; the pictures of all renderers go through the network in one batch."""
        leaves = [
            {name: getattr(rendered, name).detach().requires_grad_() for name in self.map_names} for rendered in maps.values()
        ]
        with torch.enable_grad():
            given = self.prepare(leaves, prompts, cameras, generator)
        target = given.pictures if self.space == "picture" else given.clean
        gradient, nonfinite = self._distill(given, step, generator)
        flat = [leaf for group in leaves for leaf in group.values()]
        on_maps = iter(torch.autograd.grad(target, flat, grad_outputs=gradient * self.loss_share))
        gradients = {renderer: {name: next(on_maps) for name in self.map_names} for renderer in maps}
        loss = 0.5 * gradient.square().sum() * self.loss_share
        return TeacherResult(
            loss=loss, gradients=gradients, log={"gradient_rms": gradient.square().mean().sqrt().item()}, nonfinite=nonfinite
        )

    @torch.no_grad()
    def _distill(self, given: TeacherInput, step: int, generator: Draws) -> tuple[Tensor, int]:
        """The gradient on samples or pictures, and how many were left out because a prediction was not finite."""
        clean = given.clean.detach()
        low, high = (int(scheduled(bound, step) * self.schedule.num_timesteps) for bound in (self.t_min, self.t_max))
        high = min(high, self.schedule.num_timesteps - 1)
        repeats = given.samples_per_prompt if self.shares_time else 1
        count, groups = len(clean) // repeats, given.groups
        t = integers(min(low, high), high + 1, (count,), generator, groups).repeat_interleave(repeats)
        self.times, t = t / self.schedule.num_timesteps, t.to(clean.device)
        noise = normal(clean.shape, generator, groups).to(clean)
        later = t
        if self.student == "asd" and self.time_shift.ratio:
            share = uniform((count,), generator, groups).repeat_interleave(repeats).to(clean.device)
            later = self.time_shift(t, low, share, self.schedule.num_timesteps)
        guidance = scheduled(self.guidance_scale, step)
        guided, conditional, free = self._predict(given, noise, t, later, guidance)
        if self.space == "picture":
            estimate = self.schedule.predict_clean(self.schedule.add_noise(clean, noise, t), guided, t)
            return _leave_out_nonfinite(picture_gradient(given.pictures.detach(), self.decode(estimate)))
        student = noise if self.student == "sds" else conditional
        levels, views = self.schedule.alphas_cumprod.to(clean), given.samples_per_prompt
        at_later = LaterEstimate(free + guidance * (student - free), levels[later])
        gradient = distillation_gradient(clean, guided, student, levels[t], self.weighting, views, later=at_later)
        return _leave_out_nonfinite(gradient)

    def _predict(
        self, given: TeacherInput, noise: Tensor, t: Tensor, later: Tensor, guidance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The guided prediction at ``t``, the conditional one at ``later`` and the unconditional one at ``t``, in one call.

        With guidance 1 the unconditional one has no influence and is not asked for; the conditional one stands for it.
        """
        clean = given.clean.detach()
        noisy = self.schedule.add_noise(clean, noise, t)
        text = self._tokens(given.prompts, given.samples_per_prompt)
        calls = [(noisy, t, text)]
        if guidance != 1.0:
            calls.append((noisy, t, self._tokens([self.negative_prompt] * len(given.prompts), given.samples_per_prompt)))
        if needs_later := not torch.equal(t, later):
            calls.append((self.schedule.add_noise(clean, noise, later), later, text))
        samples, times, texts = (torch.cat(parts) for parts in zip(*calls))
        labels = None if given.labels is None else given.labels.repeat(len(calls), 1)
        predicted = list(self.predict_noise(samples, times, texts, labels).chunk(len(calls)))
        conditional = predicted[0]
        free = conditional if guidance == 1.0 else predicted[1]
        return free + guidance * (conditional - free), predicted[-1] if needs_later else conditional, free

    def _tokens(self, prompts: list[str], repeats: int) -> Tensor:
        return self.prompt_encoder.encode(prompts).tokens.repeat_interleave(repeats, dim=0)

    @torch.no_grad()
    def predict_noise(self, noisy: Tensor, t: Tensor, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """[N, C, h, w] noise of noisy samples, whatever the network predicts; runs in the network's own precision."""
        kind = self.unet.dtype
        labels = None if labels is None else labels.to(kind)
        prediction = self.unet(noisy.to(kind), t, tokens.to(kind), class_labels=labels).sample.to(noisy)
        return self.schedule.to_noise(prediction, noisy, t)

    @torch.no_grad()
    def sample_clean(
        self,
        prompts: list[str],
        samples_per_prompt: int,
        shape: tuple[int, int, int],
        labels: Tensor | None = None,
        steps: int = 25,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[N, C, h, w] samples of the teacher itself by deterministic DDIM: look at them before you trust a teacher."""
        guidance = scheduled(self.guidance_scale, 0) if guidance_scale is None else guidance_scale
        count = len(prompts) * samples_per_prompt
        noisy = torch.randn(count, *shape, generator=generator).to(self.schedule.alphas_cumprod)
        stride = self.schedule.num_timesteps // steps
        for t in unroll_timesteps(steps, self.schedule.num_timesteps):
            times = torch.full((count,), t, device=noisy.device)
            text = self._tokens(prompts, samples_per_prompt)
            predicted = self.predict_noise(noisy, times, text, labels)
            if guidance != 1.0:
                free_text = self._tokens([self.negative_prompt] * len(prompts), samples_per_prompt)
                free = self.predict_noise(noisy, times, free_text, labels)
                predicted = free + guidance * (predicted - free)
            noisy, clean = self.schedule.ddim_step(noisy, predicted, t, t - stride)
        return clean


def _leave_out_nonfinite(gradient: Tensor) -> tuple[Tensor, int]:
    """Zero for every sample whose gradient is not finite, and their number."""
    finite = torch.isfinite(gradient).flatten(1).all(dim=1)
    return torch.where(finite[:, None, None, None], gradient, 0.0), int((~finite).sum())
