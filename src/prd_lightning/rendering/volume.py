"""The volume renderer: NeuS on triplane fields, with a proposal pass and colour only where rays carry weight.

A coarse pass without gradients finds the surface, a fine pass is differentiable. In training at full size a picture is a coarse
global pass, up-sampled, with one random full-resolution patch pasted in (design section 4).
"""

from dataclasses import fields, replace
from typing import get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws, shared, uniform
from prd_lightning.errors import ConfigurationError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.losses import Schedule, scheduled
from prd_lightning.rendering.maps import (
    Background,
    RenderedMaps,
    disparity_from_depth,
    normal_to_camera,
    resize_map,
    scale_gradient,
)
from prd_lightning.rendering.neus import (
    INVERSE_STANDARD_DEVIATION,
    SurfaceModel,
    depth_variance,
    neus_alpha,
    render_weights,
    resample,
    volsdf_alpha,
)
from prd_lightning.rendering.rays import Rays, gather_vectors, scatter_vectors, wanted_first

EVALUATION_SAMPLES = 400_000
"""Points that are looked up at once when no gradient is needed."""


class VolumeRenderer(nn.Module):
    """Renders fields along rays.

    Args:
        image_size: height and width of the maps.
        global_size: height and width of the coarse pass in training; None renders every pixel.
        patch_size: height and width of the full-resolution patch in training.
        proposal_samples: sections of the pass without gradients.
        fine_samples: sections of the differentiable pass.
        near, far: distances along the ray between which the object is looked for.
        bounding_radius: with a radius the search is limited to the ball of that radius at the origin; rays that miss the
            ball show the background.
        empty_margin: rays that pass the surface at more than this distance are not followed further, and show the background; a
            few times the surface's width 1 / k loses nothing that could be seen. None follows all.
        inverse_standard_deviation: sharpness k of the surface.
        color_samples: colour is evaluated at this many heaviest sections of a ray, None for all.
        stratified: shift the sections at random in training.
        color_gradient_scale: scheduled factor of the gradient that reaches the field's colour.
        surface_model: how distances become opacity: ``neus``, ``volsdf``, or ``volsdf_linear`` as in the original's VolSDF.
        cosine_annealing: scheduled share of NeuS's own slope in training, see ``rendering.neus``; 1 is NeuS itself.

    Raises:
        ConfigurationError: sizes or distances that do not fit one another, or an unknown surface model.
    """

    def __init__(
        self,
        image_size: int = 128,
        global_size: int | None = 42,
        patch_size: int = 40,
        proposal_samples: int = 64,
        fine_samples: int = 128,
        near: float = 0.1,
        far: float = 4.0,
        bounding_radius: float | None = None,
        empty_margin: float | None = None,
        inverse_standard_deviation: float = INVERSE_STANDARD_DEVIATION,
        color_samples: int | None = None,
        stratified: bool = True,
        color_gradient_scale: Schedule = 1.0,
        surface_model: SurfaceModel = "neus",
        cosine_annealing: Schedule = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < near < far:
            raise ConfigurationError(f"near and far must satisfy 0 < near < far, got near={near}, far={far}")
        if global_size is not None and not 0 < patch_size <= image_size:
            raise ConfigurationError(f"patch_size ({patch_size}) must lie between 1 and image_size ({image_size})")
        if min(proposal_samples, fine_samples) < 2:
            raise ConfigurationError(f"at least 2 samples are needed, got {proposal_samples} proposal and {fine_samples} fine")
        if surface_model not in get_args(SurfaceModel):
            known = ", ".join(get_args(SurfaceModel))
            raise ConfigurationError(f"unknown surface_model {surface_model!r}; known: {known}")
        if empty_margin is not None and not empty_margin > 0:
            raise ConfigurationError(f"empty_margin must be a positive distance or null, got {empty_margin}")
        self.image_size, self.global_size, self.patch_size = image_size, global_size, patch_size
        self.proposal_samples, self.fine_samples = proposal_samples, fine_samples
        self.near, self.far, self.bounding_radius, self.empty_margin = near, far, bounding_radius, empty_margin
        self.inverse_standard_deviation = inverse_standard_deviation
        self.color_samples, self.stratified = color_samples, stratified
        scheduled(color_gradient_scale, 0), scheduled(cosine_annealing, 0)  # raises where they are no schedules
        self.color_gradient_scale, self.cosine_annealing = color_gradient_scale, cosine_annealing
        self.surface_model, self.step = surface_model, 0
        self._draws: Draws = None

    def forward(
        self,
        field: TriplaneField,
        prepared: PreparedPlanes,
        cameras: Cameras,
        background: Background,
        step: int = 0,
        draws: Draws = None,
    ) -> RenderedMaps:
        """Maps of B scenes from V = B * views cameras.

        ``step`` counts optimizer steps, for the scheduled settings; ``draws`` are of the random shifts and the patch's place.
        """
        self.step, self._draws = step, draws
        if not self.training or self.global_size is None:
            return self._render(field, prepared, cameras, background, self.image_size)
        coarse = self._render(field, prepared, cameras, background, self.global_size)
        limit = self.image_size - self.patch_size + 1
        top, left = (int(torch.randint(limit, (), generator=shared(draws))) for _ in range(2))
        window = (slice(top, top + self.patch_size), slice(left, left + self.patch_size))
        patch = self._render(field, prepared, cameras, background, self.image_size, window)
        return _paste(coarse, patch, window, self.image_size)

    def _render(
        self,
        field: TriplaneField,
        prepared: PreparedPlanes,
        cameras: Cameras,
        background: Background,
        size: int,
        window: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> RenderedMaps:
        origins, directions = (rays[:, window[0], window[1]] for rays in cameras.rays(size, size))
        views, height, width, _ = directions.shape
        flat = [rays.reshape(prepared.batch, -1, 3) for rays in (origins, directions)]
        flat.append(self._jitter(flat[0][..., 0]))
        step = flat[0].shape[1]
        if not torch.is_grad_enabled():
            step = max(1, EVALUATION_SAMPLES // (prepared.batch * max(self.proposal_samples, self.fine_samples)))
        chunks = [self._integrate(field, prepared, *part) for part in zip(*(rays.split(step, dim=1) for rays in flat))]
        rgb, opacity, depth, normal, variance = (
            torch.cat(parts, dim=1).reshape(views, height, width, -1) for parts in list(zip(*chunks))[:5]
        )
        normal = functional.normalize(normal, dim=-1)
        return RenderedMaps(
            rgb=rgb + (1 - opacity) * background(directions),
            opacity=opacity,
            depth=depth,
            disparity=disparity_from_depth(depth, opacity, cameras.distance),
            normal_world=normal,
            normal_camera=normal_to_camera(normal, opacity, cameras),
            depth_variance=variance,
            sdf_gradient=torch.cat([chunk[5] for chunk in chunks], dim=1),
            sdf_counted=torch.cat([chunk[6] for chunk in chunks], dim=1),
        )

    def _bounds(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First and last distance of each ray ([B, R]), and which rays ([B, R] bool) meet the bounding ball."""
        near, far = torch.full_like(origins[..., 0], self.near), torch.full_like(origins[..., 0], self.far)
        if self.bounding_radius is None:
            return near, far, torch.ones_like(near, dtype=torch.bool)
        closest = -(origins * directions).sum(-1)
        half_chord = self.bounding_radius**2 - (origins + closest[..., None] * directions).square().sum(-1)
        meets, half_chord = half_chord > 0, half_chord.clamp_min(1e-6).sqrt()
        near, far = (closest - half_chord).clamp_min(self.near), (closest + half_chord).clamp_max(self.far)
        return near, far, meets & (far > near)  # a ball behind the camera is not met

    def _integrate(
        self, field: TriplaneField, prepared: PreparedPlanes, origins: Tensor, directions: Tensor, jitter: Tensor
    ) -> tuple[Tensor, ...]:
        """rgb (foreground) [B, R, 3], opacity, depth [B, R, 1], summed normals [B, R, 3], variance [B, R, 1], gradients [B, M, 3]
        and which of those belong to rays that meet the ball [B, M].

        Rays that miss the ball are left out before any look-up, those that pass the surface at more than ``empty_margin`` before
        the fine pass. Each scene keeps as many rays as the scene with the most.
        """
        rays, kept = Rays(origins, directions, *self._bounds(origins, directions), jitter), None
        if not rays.hits.all():
            kept = wanted_first(rays.hits)
            rays = rays.take(kept)
        edges, clearance = self._proposal(field, prepared, rays)
        if self.empty_margin is not None:
            near = rays.hits & (clearance < self.empty_margin)
            chosen = wanted_first(near)
            rays = replace(rays, hits=near).take(chosen)
            edges, kept = gather_vectors(edges, chosen), chosen if kept is None else kept.gather(1, chosen)
        *maps, gradient, counted = self._march(field, prepared, rays, edges)
        if kept is not None:
            maps = [scatter_vectors(values, kept, origins.shape[1]) for values in maps]
        return *maps, gradient, counted

    def _jitter(self, rays: Tensor) -> Tensor:
        """Where within its section each ray ([B, R]) is sampled; drawn before any is left out or split off, so by scene alone."""
        if not (self.training and self.stratified):
            return torch.full_like(rays, 0.5)
        return torch.rand_like(rays) if self._draws is None else uniform(rays.shape, self._draws).to(rays)

    def _march(self, field: TriplaneField, prepared: PreparedPlanes, rays: Rays, edges: Tensor) -> tuple[Tensor, ...]:
        """See ``_integrate``; every ray is evaluated, those that are no ``hits`` stay empty."""
        lengths, middle = edges.diff(dim=-1), 0.5 * (edges[..., 1:] + edges[..., :-1])
        points = rays.points(middle)
        sdf, gradient = field.sdf_and_gradient(prepared, points.flatten(1, 2))
        normal = functional.normalize(gradient, dim=-1).view_as(points)
        cosine = (normal * rays.directions[..., None, :]).sum(-1)
        alpha = self._alpha(sdf.view_as(middle), cosine, lengths)
        weights = render_weights((alpha * rays.hits[..., None]).flatten(0, 1)).view_as(alpha)
        opacity = weights.sum(-1, keepdim=True)
        depth = (weights * middle).sum(-1, keepdim=True)
        summed_normal = (weights[..., None] * normal).sum(-2)
        rgb, variance = self._color(field, prepared, points, weights), depth_variance(weights, middle, depth)
        counted = rays.hits.repeat_interleave(middle.shape[-1], dim=1)
        return rgb, opacity, depth, summed_normal, variance, gradient, counted

    def _alpha(self, sdf: Tensor, cosine: Tensor | float, lengths: Tensor) -> Tensor:
        """Opacity of sections by the surface model; cosines are annealed in training only."""
        if self.surface_model == "neus":
            annealing = scheduled(self.cosine_annealing, self.step) if self.training else 1.0
            return neus_alpha(sdf, cosine, lengths, self.inverse_standard_deviation, annealing)
        return volsdf_alpha(sdf, lengths.detach(), self.inverse_standard_deviation, self.surface_model == "volsdf_linear")

    def _color(self, field: TriplaneField, prepared: PreparedPlanes, points: Tensor, weights: Tensor) -> Tensor:
        if self.color_samples is None or self.color_samples >= weights.shape[-1]:
            rgb = scale_gradient(field.color(prepared, points.flatten(1, 2)).view_as(points), self._color_factor())
            return (weights[..., None] * rgb).sum(-2)
        heaviest, index = weights.topk(self.color_samples, dim=-1)
        chosen = points.gather(-2, index[..., None].expand(*index.shape, 3))
        rgb = scale_gradient(field.color(prepared, chosen.flatten(1, 2)).view_as(chosen), self._color_factor())
        # The left-out sections carry little weight; the chosen ones stand for them.
        share = weights.sum(-1, keepdim=True) / heaviest.sum(-1, keepdim=True).clamp_min(1e-6)
        return ((heaviest * share)[..., None] * rgb).sum(-2)

    def _color_factor(self) -> float:
        return scheduled(self.color_gradient_scale, self.step)

    @torch.no_grad()
    def _proposal(self, field: TriplaneField, prepared: PreparedPlanes, rays: Rays) -> tuple[Tensor, Tensor]:
        """Section edges [B, R, fine + 1]: evenly spaced sections, weighed by NeuS with a head-on surface, resampled.

        And how far each ray [B, R] stays from the surface at least: a distance grows by no more than the way along the ray.
        """
        count, near, far = self.proposal_samples, rays.near, rays.far
        spaced = torch.arange(count + 1, device=near.device, dtype=near.dtype) / count
        edges = near[..., None] + (far - near)[..., None] * spaced
        lengths = (far - near)[..., None] / count
        middle = edges[..., :-1] + lengths * rays.jitter[..., None]
        sdf = field.sdf(prepared, rays.points(middle).flatten(1, 2)).view_as(middle)
        alpha = self._alpha(sdf, -1.0, lengths)
        weights = render_weights(alpha.flatten(0, 1))
        # A section's neighbours share its weight: the surface may lie just beyond its edge.
        padded = functional.pad(weights, (1, 1), mode="replicate")
        spread = torch.maximum(torch.maximum(padded[:, :-2], padded[:, 2:]), weights)
        fine = resample(edges.flatten(0, 1), spread + 0.01, self.fine_samples).view(*near.shape, -1)
        return fine, (sdf - 0.5 * lengths).amin(dim=-1)


def _paste(coarse: RenderedMaps, patch: RenderedMaps, window: tuple[slice, slice], size: int) -> RenderedMaps:
    """The up-sampled coarse maps with the patch in their ``window``."""
    pasted = {}
    for item in fields(RenderedMaps):
        value = getattr(coarse, item.name)
        if not isinstance(value, Tensor):
            continue
        if item.name in ("sdf_gradient", "sdf_counted"):
            pasted[item.name] = torch.cat([value, getattr(patch, item.name)], dim=1)
            continue
        large = resize_map(value, size).clone()
        large[:, window[0], window[1]] = getattr(patch, item.name)
        pasted[item.name] = large
    return replace(coarse, **pasted)
