"""A coloured surface from planes, all parts included: the sparse search against ``grid_sample`` at every grid point."""

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.grid_distances import dense_distances
from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.field import PLANE_AXES, PreparedPlanes, TriplaneField, orient_planes
from prd_lightning.isosurface import close_boundary, deform, ends_of_edges, find_surface, grid_points, surface_vertices
from prd_lightning.mesh.extraction import extract_surface
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import initial_noise

PROMPT = "a red cone"
POINTS_AT_ONCE = 16_384


def looked_up(planes: Tensor, first: int, points: Tensor) -> list[Tensor]:
    """Three [1, N, C] look-ups by ``grid_sample`` of the planes from number ``first`` on."""
    oriented = orient_planes(planes)[:, first : first + 3]
    sampled = [
        functional.grid_sample(oriented[:, index], points[None, None, :, list(axes)], align_corners=False)
        for index, axes in enumerate(PLANE_AXES)
    ]
    return [values[:, :, 0].transpose(1, 2) for values in sampled]


@torch.no_grad()
def dense_mesh(field: TriplaneField, planes: Tensor, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and colours; every look-up by ``grid_sample``, every grid point evaluated."""
    sdf = close_boundary(dense_distances(field, planes, resolution)[0], resolution)
    surface = find_surface(sdf, resolution)
    needed, ends = ends_of_edges(surface.edges, len(sdf))
    points = grid_points(resolution, planes.device)[needed]
    raw = [field.deformation_network(sum(looked_up(planes, 0, part)))[0] for part in points.split(POINTS_AT_ONCE)]
    vertices = surface_vertices(sdf[surface.edges], deform(points, torch.cat(raw), resolution)[ends])
    logits = [
        field.texture_network(torch.cat(looked_up(planes, 3, part), dim=-1))[0] for part in vertices.split(POINTS_AT_ONCE)
    ]
    return vertices, surface.faces, torch.sigmoid(torch.cat(logits))


@torch.no_grad()
def sparse_mesh(field: TriplaneField, prepared: PreparedPlanes, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and colours as the library makes them."""
    vertices, faces = extract_surface(field, prepared, resolution)
    colors = torch.cat([field.color(prepared, part[None])[0] for part in vertices.split(POINTS_AT_ONCE)])
    return vertices, faces, colors


@torch.no_grad()
def widened(field: TriplaneField, planes: Tensor, channels: int, hidden: int, size: int) -> tuple[TriplaneField, Tensor]:
    """The same field with more channels and units (copies that share the weight), on planes interpolated to another size."""
    copies, units = channels // planes.shape[2], hidden // field.sdf_network[2].weight.shape[0]
    wide = TriplaneField(channels, hidden, field.sphere_radius).to(planes.device).requires_grad_(False)
    for name in ("sdf_network", "deformation_network", "texture_network"):
        first, second, last = (getattr(field, name)[index].weight for index in (0, 2, 4))
        groups = first.shape[1] // planes.shape[2]  # the texture network's planes are concatenated
        first = first.view(len(first), groups, -1).repeat(units, 1, copies).flatten(1) / copies
        for index, weight in ((0, first), (2, second.repeat(units, units) / units), (4, last.repeat(1, units) / units)):
            getattr(wide, name)[index].weight.copy_(weight)
    large = functional.interpolate(planes[0].repeat(1, copies, 1, 1), (size, size), mode="bilinear", align_corners=False)
    return wide, large[None]


def trained_field(settings: Settings) -> tuple[TriplaneField, Tensor]:
    """Field and planes of the shipped generator for one prompt."""
    pipeline = TextToMeshPipeline.from_pretrained("tiny", settings.device)
    parts = pipeline.parts
    text = parts.prompt_encoder.encode([PROMPT])
    noise = initial_noise([0], parts.generator.latent_shape).to(text.tokens)
    with torch.no_grad():
        return parts.field, parts.generator.sample(text.tokens, noise, parts.noise_schedule, pipeline.architecture.steps)


def build(settings: Settings) -> Result:
    """A trained field widened to the published size, and an untrained one on white planes."""
    channels, hidden, size, resolution = (32, 64, 24, 12) if settings.smallest else (32, 64, 256, 160)
    torch.manual_seed(0)
    untrained = TriplaneField(channels, hidden).to(settings.device)
    white = torch.randn(1, 6, channels, size, size, device=settings.device) * 0.1
    fields = {"trained": widened(*trained_field(settings), channels, hidden, size), "white noise": (untrained, white)}
    cases, baselines = {}, {}
    for name, (field, planes) in fields.items():
        prepared = field.prepare(planes)
        sparse, dense, alone = f"{name}, sparse", f"{name}, grid_sample", f"{name}, grid_sample, distances alone"
        cases[sparse] = lambda field=field, prepared=prepared: sparse_mesh(field, prepared, resolution)
        cases[dense] = lambda field=field, planes=planes: dense_mesh(field, planes, resolution)
        cases[alone] = lambda field=field, planes=planes: dense_distances(field, planes, resolution)
        baselines |= dict.fromkeys((sparse, dense, alone), sparse)
    sizes = {"plane_size": size, "channels": channels, "resolution": resolution}
    return Result("a coloured surface", sizes, make_cases(measure(cases, settings), baselines))
