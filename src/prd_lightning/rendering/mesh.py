"""The mesh renderer: iso-surface, rasterizer, colour of the field where the surface is seen.

Only surface points of covered pixels get a colour; only grid points at the ends of cut edges are looked up with gradients. The
gradient that reaches the signed distance (and the deformation) through the mesh is scaled down, so that geometry is mostly
learned through the volume renderer (design section 4).
"""

from dataclasses import MISSING, fields
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws
from prd_lightning.errors import ConfigurationError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.isosurface import close_boundary, deform, ends_of_edges, find_surface, grid_points, surface_vertices
from prd_lightning.losses import Schedule, scheduled
from prd_lightning.rendering.maps import NORMAL_BACKGROUND, Background, RenderedMaps, disparity_from_depth, scale_gradient
from prd_lightning.rendering.rasterizers import Rasterizer, RasterizerName, make_rasterizer


def vertex_normals(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "vertices 3"]:
    """Unit vertex normals: the area-weighted mean of the face normals around each vertex."""
    a, b, c = vertices[faces].unbind(dim=1)
    weighted = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add(0, faces.flatten(), weighted.repeat_interleave(3, dim=0))
    return functional.normalize(total, dim=-1, eps=1e-12)


class MeshRenderer(nn.Module):
    """Renders the zero level of fields as triangle meshes.

    Args:
        resolution: cells of the iso-surface grid along each axis.
        image_size: height and width of the maps.
        rasterizer: backend, see ``make_rasterizer``.
        sdf_gradient_scale: scheduled factor of the gradient of the signed distance and the deformation through the mesh.
        depth: ``clip`` is the clip-space z (about the distance along the view axis - 0.2; published weights were trained with
            it), ``ray`` the distance along the ray, as the volume renderer's.
        background_focal_size: picture height whose focal length the background's rays have; None for their own. Published
            weights were trained with the height of the volume renderer's picture, so their backgrounds are too wide.
    """

    grid: Tensor

    def __init__(
        self,
        resolution: int = 128,
        image_size: int = 512,
        rasterizer: RasterizerName = "auto",
        sdf_gradient_scale: Schedule = 0.001,
        depth: Literal["clip", "ray"] = "clip",
        background_focal_size: int | None = None,
    ) -> None:
        super().__init__()
        if depth not in ("clip", "ray"):
            raise ConfigurationError(f"depth must be 'clip' or 'ray', got {depth!r}")
        if image_size < 1:
            raise ConfigurationError(f"image_size must be at least 1, got {image_size}")
        self.resolution, self.image_size, self.rasterizer_name = resolution, image_size, rasterizer
        self.sdf_gradient_scale, self.depth = sdf_gradient_scale, depth
        self.background_focal_size, self.step = background_focal_size, 0
        self.register_buffer("grid", grid_points(resolution), persistent=False)
        self._rasterizer: Rasterizer | None = None

    @property
    def rasterizer(self) -> Rasterizer:
        """The backend, chosen when the device is known."""
        if self._rasterizer is None:
            self._rasterizer = make_rasterizer(self.rasterizer_name, self.grid.device)
        return self._rasterizer

    def forward(
        self,
        field: TriplaneField,
        prepared: PreparedPlanes,
        cameras: Cameras,
        background: Background,
        step: int = 0,
        draws: Draws = None,
    ) -> RenderedMaps:
        """Maps of B scenes from V = B * views cameras; a scene without a surface shows the background and is counted.

        ``step`` counts optimizer steps, for the scheduled setting.
        """
        self.step = step
        views = len(cameras) // prepared.batch
        _, directions = cameras.rays(self.image_size, self.image_size, self.background_focal_size)
        backdrop = background(directions)
        parts, empty = [], 0
        for index, (vertices, faces) in enumerate(self.extract(field, prepared)):
            window = slice(index * views, (index + 1) * views)
            scene = prepared.item(index)
            if len(faces):
                parts.append(self._draw(field, scene, vertices, faces, cameras.select(window), backdrop[window]))
            else:
                empty += 1
                # Zero times the planes keeps the graph connected: every rank has a gradient for every parameter.
                idle = 0.0 * (scene.geometry.mean() + scene.texture.mean())
                parts.append(_nothing(backdrop[window], idle))
        names = [item.name for item in fields(RenderedMaps) if item.default is MISSING]
        return RenderedMaps(**{name: torch.cat([part[name] for part in parts]) for name in names}, empty_mesh_count=empty)

    def extract(
        self, field: TriplaneField, prepared: PreparedPlanes, sdf: Float[Tensor, "batch points"] | None = None
    ) -> list[tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]]:
        """The surface of each scene, differentiable in the field; ``sdf`` is ``field.grid_sdf`` where it is known already."""
        sdf = field.grid_sdf(prepared, self.resolution) if sdf is None else sdf
        return [self._surface(field, prepared.item(index), values) for index, values in enumerate(sdf)]

    def _surface(self, field: TriplaneField, scene: PreparedPlanes, values: Tensor) -> tuple[Tensor, Tensor]:
        closed = close_boundary(values, self.resolution)
        surface = find_surface(closed, self.resolution)
        if not len(surface.faces):
            return values.new_zeros(0, 3), surface.faces
        needed, ends = ends_of_edges(surface.edges, len(values))
        sdf, deformation = field.sdf_and_deformation(scene, self.grid[needed][None])
        # Values on the box's faces may have been raised to close the surface.
        factor = scheduled(self.sdf_gradient_scale, self.step)
        sdf = scale_gradient(sdf[0], factor) + (closed - values)[needed]
        moved = deform(self.grid[needed], scale_gradient(deformation[0], factor), self.resolution)
        return surface_vertices(sdf[ends], moved[ends]), surface.faces

    def _draw(
        self,
        field: TriplaneField,
        scene: PreparedPlanes,
        vertices: Tensor,
        faces: Tensor,
        cameras: Cameras,
        backdrop: Tensor,
    ) -> dict[str, Tensor]:
        size = self.image_size
        homogeneous = functional.pad(vertices, (0, 1), value=1.0)
        clip = torch.einsum("vij,nj->vni", cameras.model_view_projection(), homogeneous)
        raster = self.rasterizer.rasterize(clip, faces, (size, size))
        covered = (raster[..., 3:] > 0).to(raster)
        attributes = torch.cat([vertices, vertex_normals(vertices, faces)], dim=-1)
        surface = self.rasterizer.interpolate(attributes[None], raster, faces)
        position, normal = surface[..., :3], functional.normalize(surface[..., 3:], dim=-1, eps=1e-6)
        depth = self._depth(position, clip, raster, faces, cameras) * covered
        local = torch.einsum("vij,vhwj->vhwi", cameras.world_to_camera()[:, :3, :3], normal)
        local = 0.5 * (local * local.new_tensor([-1.0, 1.0, 1.0]) + 1)
        flat_normal = local.new_tensor(NORMAL_BACKGROUND)
        maps = {
            "rgb": torch.where(covered > 0, self._color(field, scene, position, covered), backdrop),
            "opacity": covered,
            "disparity": disparity_from_depth(depth, covered, cameras.distance),
            "normal_camera": torch.where(covered > 0, local, flat_normal),
        }
        widths = [value.shape[-1] for value in maps.values()]
        smooth = self.rasterizer.antialias(torch.cat(list(maps.values()), dim=-1), raster, clip, faces)
        return dict(zip(maps, smooth.split(widths, dim=-1))) | {"depth": depth, "normal_world": normal * covered}

    def _depth(self, position: Tensor, clip: Tensor, raster: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
        if self.depth == "ray":
            return (position - cameras.position[:, None, None]).norm(dim=-1, keepdim=True)
        return self.rasterizer.interpolate(clip[..., 2:3], raster, faces)

    @staticmethod
    def _color(field: TriplaneField, scene: PreparedPlanes, position: Tensor, covered: Tensor) -> Tensor:
        pixel = covered.flatten().nonzero().squeeze(1)
        colors = field.color(scene, position.reshape(-1, 3)[pixel][None])[0]
        return torch.zeros_like(position).reshape(-1, 3).index_copy(0, pixel, colors).view_as(position)


def _nothing(backdrop: Tensor, idle: Tensor) -> dict[str, Tensor]:
    zero = torch.zeros_like(backdrop[..., :1]) + idle
    empty_normal = torch.zeros_like(backdrop) + idle
    return {
        "rgb": backdrop + idle,
        "opacity": zero,
        "depth": zero,
        "disparity": zero,
        "normal_world": empty_normal,
        "normal_camera": empty_normal + backdrop.new_tensor(NORMAL_BACKGROUND),
    }
