"""Fields for ``surface_check``, and one sparse search compared with the dense evaluation."""

from typing import Any

import scipy.ndimage
import torch
import torch.nn.functional as functional
from jaxtyping import Bool
from torch import Tensor

from prd_lightning.errors import EmptyMeshError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.isosurface import FieldGrid
from prd_lightning.mesh.extraction import extract_surface

KINDS = ("4 texels", "8 texels", "a fourth", "half", "white noise")
"""What random planes are interpolated from, by seed modulo 5: so many texels, or a share of the planes' own size."""


@torch.no_grad()
def random_field(seed: int, channels: int = 8, hidden: int = 16, size: int = 32) -> tuple[TriplaneField, PreparedPlanes]:
    """A field whose kind (smooth to white planes, weak or strong, plain or sharpened network) follows from its seed."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    field = TriplaneField(channels, hidden).requires_grad_(False)
    strength = 10 ** float(torch.rand((), generator=generator) * 1.7 - 1.5)
    gain = (1.0, 1.5, 2.5)[seed % 3]
    for layer in (0, 2, 4):
        field.sdf_network[layer].weight.mul_(gain)
    coarse = (4, 8, size // 4, size // 2, size)[seed % len(KINDS)]
    planes = torch.randn(6, channels, coarse, coarse, generator=generator) * strength
    planes = functional.interpolate(planes, (size, size), mode="bicubic", align_corners=False) if coarse < size else planes
    return field, field.prepare(planes[None])


def largest_piece(points: Bool[Tensor, "side side side"]) -> int:
    """Grid points of the largest part that hangs together along the axes."""
    if not points.any():
        return 0
    labels, _ = scipy.ndimage.label(points.cpu().numpy())
    return int(torch.from_numpy(labels).flatten().bincount()[1:].max())


def compare(field: TriplaneField, planes: PreparedPlanes, resolution: int, meshes: bool) -> dict[str, Any]:
    """What the sparse search found for one field.

    Returns:
        ``certain``: which search was used; ``surface``: whether there is one; ``differing`` points and the largest ``piece`` of
        them; ``share`` of the points that were evaluated; with ``meshes`` also ``same_faces`` and ``distance`` of vertices.
    """
    grid = FieldGrid(field, planes, resolution)
    dense, sparse = grid.dense_signs(), grid.sparse_signs()
    wrong = dense.inside != sparse.inside
    inner = dense.inside[1:-1, 1:-1, 1:-1]
    found = {
        "certain": sparse.certain,
        "surface": bool(inner.any() and not dense.inside.all()),
        "differing": int(wrong.sum()),
        "piece": largest_piece(wrong),
        "share": round(sparse.evaluated / grid.side**3, 5),
    }
    return found | (compare_meshes(field, planes, resolution) if meshes and found["surface"] else {})


def compare_meshes(field: TriplaneField, planes: PreparedPlanes, resolution: int) -> dict[str, Any]:
    """Whether the faces of both meshes are the same, and how far their vertices are apart."""
    try:
        (vertices, faces), (expected, expected_faces) = (
            extract_surface(field, planes, resolution, dense) for dense in (False, True)
        )
    except EmptyMeshError:
        return {"same_faces": False}
    same = faces.shape == expected_faces.shape and bool((faces == expected_faces).all())
    return {"same_faces": same} | ({"distance": float((vertices - expected).abs().max())} if same else {})
