"""From a scene's field to the mesh that a person takes away: extraction, clean-up, colours, texture."""

import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy
import torch

from prd_lightning.errors import AtlasError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.mesh.atlas import make_atlas
from prd_lightning.mesh.baking import TEXELS_AT_ONCE, bake_texture
from prd_lightning.mesh.cleanup import CleanUpReport, clean_mesh
from prd_lightning.mesh.extraction import extract_mesh
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.options import MeshOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextureReport:
    """What became of the wish for a texture.

    Attributes:
        size: of the picture, None if there is none.
        charts: pieces of the atlas.
        normal_map: whether there is one.
        seconds: that atlas and baking took.
        fallback: why the mesh has colours at its vertices instead, None if it has a texture.
    """

    size: int | None
    charts: int
    normal_map: bool
    seconds: float
    fallback: str | None = None


@dataclass(frozen=True)
class MakingReport:
    """How a mesh was made.

    Attributes:
        clean_up: what was mended and how many faces were reached.
        texture: None if none was asked for.
    """

    clean_up: CleanUpReport
    texture: TextureReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def make_mesh(
    field: TriplaneField, prepared: PreparedPlanes, options: MeshOptions | None = None
) -> tuple[Mesh, MakingReport]:
    """The mesh of one scene.

    Args:
        field: networks over the planes.
        prepared: the planes of one scene.
        options: how it is made.

    Raises:
        EmptyMeshError, NonFiniteError: there is no surface, see ``extract_mesh``.
        BackendUnavailableError: pymeshlab is not installed.
    """
    options = options or MeshOptions()
    extracted = extract_mesh(field, prepared, options.resolution)
    mesh, report = clean_mesh(
        extracted, options.faces_wished, options.smallest_component, options.fill_holes, options.smooth, options.remesh
    )
    _log(report)
    if mesh is not extracted:
        mesh = color_from_field(field, prepared, mesh)
    if not options.texture:
        return mesh, MakingReport(report)
    mesh, texture = add_texture(field, prepared, mesh, options)
    return mesh, MakingReport(report, texture)


def _log(report: CleanUpReport) -> None:
    if not report.reached:
        logger.warning("the mesh has %d faces, not %d: its shape allows no fewer", report.faces_after, report.target_faces)
    elif report.kept:
        logger.info("the mesh has %d faces, fewer than the %d asked for", report.faces_after, report.target_faces)


@torch.no_grad()
def color_from_field(field: TriplaneField, prepared: PreparedPlanes, mesh: Mesh) -> Mesh:
    """The same mesh with the field's own colours at its vertices."""
    points = torch.from_numpy(mesh.vertices).to(prepared.texture.device)
    colors = torch.cat([field.color(prepared, part[None])[0] for part in points.split(TEXELS_AT_ONCE)])
    return replace(mesh, colors=colors.clamp(0, 1).cpu().numpy().astype(numpy.float32))


def add_texture(
    field: TriplaneField, prepared: PreparedPlanes, mesh: Mesh, options: MeshOptions
) -> tuple[Mesh, TextureReport]:
    """The mesh with a texture, or as it is where no atlas came about in time (logged, and told by the report)."""
    begun = time.perf_counter()
    try:
        atlas = make_atlas(mesh, options.texture_size, options.texture_timeout)
    except AtlasError as error:
        logger.warning("the mesh has colours at its vertices instead of a texture: %s", error)
        return mesh, TextureReport(None, 0, False, round(time.perf_counter() - begun, 3), str(error))
    texture = bake_texture(field, prepared, mesh, atlas, options.texture_size, options.normal_map)
    report = TextureReport(options.texture_size, atlas.charts, options.normal_map, round(time.perf_counter() - begun, 3))
    return mesh.with_texture(texture), report
