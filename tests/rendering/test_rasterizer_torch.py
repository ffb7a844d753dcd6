"""The pure-PyTorch rasterizer: perspective, attributes, textures, gradients; the same on every device."""

import pytest
import torch
from raster_scenes import clip_positions, covering_mesh, from_screen, sphere_mesh

from prd_lightning.rendering.rasterizer_torch import TorchRasterizer

RASTERIZER = TorchRasterizer()


def test_perspective_interpolation_in_closed_form():
    """The interpolated world position of a pixel lies on its ray and in its triangle's plane."""
    vertices, faces = sphere_mesh()
    cameras, positions = clip_positions(vertices)
    size = 33
    raster = RASTERIZER.rasterize(positions, faces, (size, size))
    points = RASTERIZER.interpolate(vertices[None], raster, faces)
    origins, directions = cameras.rays(size, size)
    covered = raster[..., 3] > 0
    assert covered.float().mean() > 0.1
    offset = points - origins
    away = torch.linalg.cross(offset, directions).norm(dim=-1)
    assert away[covered].max() < 1e-9
    a, b, c = vertices[faces[raster[..., 3][covered].long() - 1]].unbind(dim=1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    assert ((points[covered] - a) * normal).sum(-1).abs().max() < 1e-9
    assert (normal * directions[covered]).sum(-1).max() < 1e-9, "only triangles that face the camera are seen"
    depth = RASTERIZER.interpolate(positions[..., 2:3] / positions[..., 3:], raster, faces)
    assert depth[covered].shape[0] == int(covered.sum())
    homogeneous = torch.nn.functional.pad(points, (0, 1), value=1.0)
    clip = torch.einsum("vij,vhwj->vhwi", cameras.model_view_projection(), homogeneous)
    torch.testing.assert_close(raster[..., 2][covered], (clip[..., 2] / clip[..., 3])[covered])


def test_interpolation_differentiates():
    """Positions and attributes to pictures, at fixed visibility."""
    size, generator = 6, torch.Generator().manual_seed(3)
    points, faces = covering_mesh(size, cells=2)
    w = 1 + torch.rand(len(points), generator=generator, dtype=torch.float64)
    positions = from_screen(points.double(), size, w).requires_grad_()
    attributes = torch.randn(1, len(points), 2, dtype=torch.float64, requires_grad=True)

    def picture(positions, attributes):
        return RASTERIZER.interpolate(attributes, RASTERIZER.rasterize(positions, faces, (size, size)), faces)

    assert torch.autograd.gradcheck(picture, (positions, attributes), fast_mode=True)


def test_attributes_of_each_view():
    vertices, faces = sphere_mesh(dtype=torch.float32)
    _, positions = clip_positions(vertices)
    raster = RASTERIZER.rasterize(positions, faces, (12, 12))
    attributes = torch.randn(2, len(vertices), 3)
    both = RASTERIZER.interpolate(attributes, raster, faces)
    for view in range(2):
        one = RASTERIZER.interpolate(attributes[view : view + 1], raster[view : view + 1], faces)
        torch.testing.assert_close(both[view], one[0])


def test_textures_agree_with_grid_sample():
    texture = torch.randn(1, 6, 9, 3, dtype=torch.float64)
    coordinates = 0.1 + 0.8 * torch.rand(2, 5, 7, 2, dtype=torch.float64)
    expected = torch.nn.functional.grid_sample(
        texture.permute(0, 3, 1, 2).expand(2, -1, -1, -1), coordinates * 2 - 1, align_corners=False
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(RASTERIZER.texture(texture, coordinates), expected)


def test_textures_wrap_around():
    texture = torch.randn(1, 4, 5, 2, dtype=torch.float64)
    coordinates = torch.rand(1, 6, 6, 2, dtype=torch.float64)
    looked_up = RASTERIZER.texture(texture, coordinates)
    for shift in ([1.0, 0.0], [-2.0, 3.0]):
        torch.testing.assert_close(RASTERIZER.texture(texture, coordinates + torch.tensor(shift)), looked_up)
    seam = RASTERIZER.texture(texture, torch.tensor([[[[0.0, 0.125]]]], dtype=torch.float64))
    torch.testing.assert_close(seam[0, 0, 0], 0.5 * (texture[0, 0, 0] + texture[0, 0, -1]))


def test_textures_differentiate():
    texture = torch.randn(1, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    coordinates = (2 * torch.rand(1, 3, 3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(RASTERIZER.texture, (texture, coordinates))


def test_slivers_poison_nothing():
    """Triangles that are next to nothing wide: weights stay within the triangle, values and gradients finite."""
    start, generator = torch.rand(300, 1, 2) * 16, torch.Generator().manual_seed(5)
    along = torch.randn(300, 1, 2, generator=generator) * 20
    places = torch.tensor([[0.0], [1.0], [0.4]])
    corners = start + places * along + 1e-6 * torch.randn(300, 3, 2, generator=generator)
    positions = from_screen(corners.flatten(0, 1), 16).requires_grad_()
    faces = torch.arange(900).view(300, 3)
    raster = RASTERIZER.rasterize(positions, faces, (16, 16))
    assert (raster[..., :2] >= 0).all() and (raster[..., :2].sum(-1) <= 1 + 1e-6).all()
    RASTERIZER.interpolate(torch.rand(1, 900, 1), raster, faces).sum().backward()
    assert torch.isfinite(raster).all() and torch.isfinite(positions.grad).all()


@pytest.mark.gpu
def test_cpu_and_cuda_agree():
    """Rasters, antialiased pictures and gradients of one mesh on both devices."""
    vertices, faces = sphere_mesh(24, dtype=torch.float32)
    _, positions = clip_positions(vertices, 3)
    results = {}
    for device in ("cpu", "cuda"):
        leaf, numbers = positions.to(device).requires_grad_(), faces.to(device)
        raster = RASTERIZER.rasterize(leaf, numbers, (96, 96))
        picture = RASTERIZER.antialias(
            RASTERIZER.interpolate(vertices[None].to(device), raster, numbers), raster, leaf, numbers
        )
        (gradient,) = torch.autograd.grad(picture.square().sum(), leaf)
        results[device] = [value.detach().cpu() for value in (raster, picture, gradient)]
    (raster, picture, gradient), (other_raster, other_picture, other_gradient) = results["cpu"], results["cuda"]
    same = raster[..., 3] == other_raster[..., 3]
    assert same.float().mean() > 0.9999, "only centres within rounding of an edge may differ"
    torch.testing.assert_close(picture[same], other_picture[same], atol=1e-4, rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), other_gradient.flatten(), dim=0) > 0.999
