"""The CUDA rasterizer against the pure-PyTorch one, primitive by primitive."""

import pytest
import torch

from prd_lightning.cameras import turntable_cameras
from prd_lightning.isosurface import extract_isosurface, grid_points
from prd_lightning.rendering.rasterizer_torch import TorchRasterizer

pytestmark = pytest.mark.gpu
SIZE = 64


@pytest.fixture(scope="module")
def scene():
    """Clip positions, faces, vertices and the two rasterizers."""
    pytest.importorskip("nvdiffrast")
    from prd_lightning.rendering.rasterizer_nvdiffrast import NvdiffrastRasterizer

    points = grid_points(20)
    values = torch.hypot(torch.hypot(points[:, 0], points[:, 1]) - 0.5, points[:, 2]) - 0.2
    vertices, faces = (value.cuda() for value in extract_isosurface(values, 20))
    matrices = turntable_cameras(3).to("cuda").model_view_projection()
    positions = torch.einsum("vij,nj->vni", matrices, torch.nn.functional.pad(vertices, (0, 1), value=1.0))
    return positions, faces, vertices, TorchRasterizer(), NvdiffrastRasterizer("cuda")


def test_rasters_agree(scene):
    positions, faces, _, ours, theirs = scene
    first, second = (backend.rasterize(positions, faces, (SIZE, SIZE)) for backend in (ours, theirs))
    same = first[..., 3] == second[..., 3]
    assert same.float().mean() > 0.998, "only pixels whose centre lies on an edge may differ"
    covered = same & (first[..., 3] > 0)
    torch.testing.assert_close(first[covered][:, :3], second[covered][:, :3], atol=1e-3, rtol=1e-3)


def test_interpolation_and_textures_agree(scene):
    positions, faces, vertices, ours, theirs = scene
    raster = theirs.rasterize(positions, faces, (SIZE, SIZE))
    first, second = (backend.interpolate(vertices[None], raster, faces) for backend in (ours, theirs))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    texture, coordinates = torch.rand(1, 16, 16, 3, device="cuda"), torch.rand(3, SIZE, SIZE, 2, device="cuda") * 3 - 1
    torch.testing.assert_close(
        ours.texture(texture, coordinates), theirs.texture(texture, coordinates), atol=1e-2, rtol=1e-2
    )  # the hardware's bilinear weights have eight bits


def test_silhouettes_agree(scene):
    positions, faces, _, ours, theirs = scene
    pictures, gradients = [], []
    for backend in (ours, theirs):
        leaf = positions.clone().requires_grad_()
        raster = backend.rasterize(leaf, faces, (SIZE, SIZE))
        picture = backend.antialias((raster[..., 3:] > 0).float(), raster, leaf, faces)
        pictures.append(picture.detach())
        gradients.append(torch.autograd.grad(picture.sum(), leaf)[0])
    assert (pictures[0] - pictures[1]).abs().mean() < 2e-3
    cosine = torch.nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)
    assert cosine > 0.9


def test_clipping_agrees(scene):
    """A floor that reaches behind the cameras."""
    *_, ours, theirs = scene
    floor = torch.tensor([[-30.0, -30, -0.4, 1], [30, -30, -0.4, 1], [30, 30, -0.4, 1], [-30, 30, -0.4, 1]], device="cuda")
    positions = torch.einsum("vij,nj->vni", turntable_cameras(3).to("cuda").model_view_projection(), floor)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], device="cuda")
    first, second = (backend.rasterize(positions, faces, (SIZE, SIZE)) for backend in (ours, theirs))
    assert ((first[..., 3] > 0) == (second[..., 3] > 0)).float().mean() > 0.995
    same = (first[..., 3] == second[..., 3]) & (first[..., 3] > 0)
    assert same.float().mean() > 0.2
    torch.testing.assert_close(first[same][:, :3], second[same][:, :3], atol=1e-3, rtol=1e-3)
