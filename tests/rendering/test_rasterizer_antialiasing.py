"""Antialiasing: outlines in closed form, and their gradient against finite differences."""

import pytest
import torch
from raster_scenes import clip_positions, covering_mesh, from_screen, sphere_mesh

from prd_lightning.rendering.rasterizer_torch import TorchRasterizer

RASTERIZER = TorchRasterizer()


def half_plane(edge, size=8, tilt=0.0):
    """White left of a (nearly) vertical edge that crosses the middle row at column ``edge``; differentiable in it."""
    middle = 0.5 * (size - 1)
    top, bottom = edge + tilt * (-30 - middle), edge + tilt * (30 - middle)
    columns = torch.stack([top, bottom, torch.full_like(edge, -60.0)])
    rows = edge.new_tensor([-30.0, 30.0, middle])
    positions = from_screen(torch.stack([columns, rows], dim=-1), size)
    faces = torch.tensor([[0, 1, 2]])
    raster = RASTERIZER.rasterize(positions, faces, (size, size))
    return RASTERIZER.antialias((raster[..., 3:] > 0).to(edge), raster, positions, faces)


@pytest.mark.parametrize("edge", [2.6, 3.1, 3.5, 3.9, 4.3])
def test_antialiased_edge_in_closed_form(edge):
    """The pixel that a vertical edge crosses is white in the share that lies left of it, whichever side owns the centre."""
    place = torch.tensor(edge, dtype=torch.float64, requires_grad=True)
    picture = half_plane(place)[0, ..., 0]
    columns = torch.arange(8, dtype=torch.float64)
    expected = (place.detach() + 0.5 - columns).clamp(0, 1)
    torch.testing.assert_close(picture, expected.expand(8, 8))
    (gradient,) = torch.autograd.grad(picture.sum(), place)
    assert float(gradient) == pytest.approx(8.0), "moving the edge by a pixel adds a column"


@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.7])
@pytest.mark.parametrize("edge", [3.2, 3.81])
def test_silhouette_gradient_against_finite_differences(edge, tilt):
    place = torch.tensor(edge, dtype=torch.float64)
    weight, step = 0.1 + torch.rand(1, 8, 8, 1, dtype=torch.float64), 1e-4
    leaf = place.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((half_plane(leaf, tilt=tilt) * weight).sum(), leaf)
    above, below = ((half_plane(place + shift, tilt=tilt) * weight).sum() for shift in (step, -step))
    assert float(gradient) == pytest.approx(float(above - below) / (2 * step), rel=1e-6)
    assert abs(float(gradient)) > 0.1


def test_silhouette_gradient_of_a_sphere():
    """All positions of a closed mesh, in a random direction; both the picture's sum and its parts."""
    vertices, faces = sphere_mesh()
    _, positions = clip_positions(vertices, 1)
    size, colors = 17, torch.rand(1, len(vertices), 2, dtype=torch.float64)
    weight = torch.randn(1, size, size, 2, dtype=torch.float64)

    def loss(positions):
        raster = RASTERIZER.rasterize(positions, faces, (size, size))
        picture = RASTERIZER.interpolate(colors, raster, faces)
        return (RASTERIZER.antialias(picture, raster, positions, faces) * weight).sum()

    leaf, direction, step = positions.clone().requires_grad_(), torch.randn_like(positions), 1e-7
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    with torch.no_grad():
        difference = (loss(positions + step * direction) - loss(positions - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.parametrize("resolution", [8, 32])
def test_growing_a_sphere_brightens_the_picture(resolution):
    """d area / d radius of its outline, with triangles larger and smaller than the pixels, against the closed form.

    An iso-surface folds along its outline; edges that turn over within a pixel of the outline must not count twice.
    """
    vertices, faces = sphere_mesh(resolution)
    unit = torch.nn.functional.normalize(vertices, dim=-1)
    radius = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    cameras, positions = clip_positions(unit * radius, 1)
    size = 64
    raster = RASTERIZER.rasterize(positions, faces, (size, size))
    area = RASTERIZER.antialias((raster[..., 3:] > 0).double(), raster, positions, faces).sum()
    (gradient,) = torch.autograd.grad(area, radius)
    focal, distance, r = 0.5 * size / float((0.5 * cameras.fovy[0]).tan()), float(cameras.distance[0]), 0.6
    # The outline is a circle of pixel radius f r / sqrt(d^2 - r^2).
    expected_area = torch.pi * focal**2 * r**2 / (distance**2 - r**2)
    expected = torch.pi * focal**2 * 2 * r * distance**2 / (distance**2 - r**2) ** 2
    assert float(area.detach()) == pytest.approx(expected_area, rel=0.05 if resolution == 8 else 0.01)
    assert float(gradient) == pytest.approx(expected, rel=0.05)


def test_inner_edges_are_not_blurred():
    """A flat mesh that covers the picture has no silhouette; nor does antialiasing change a picture of one colour."""
    points, faces = covering_mesh(16)
    positions = from_screen(points, 16)
    raster = RASTERIZER.rasterize(positions, faces, (16, 16))
    picture = torch.rand(1, 16, 16, 3)
    assert torch.equal(RASTERIZER.antialias(picture, raster, positions, faces), picture)
    vertices, faces = sphere_mesh(dtype=torch.float32)
    _, positions = clip_positions(vertices, 1)
    raster = RASTERIZER.rasterize(positions, faces, (16, 16))
    flat = torch.full((1, 16, 16, 3), 0.3)
    torch.testing.assert_close(RASTERIZER.antialias(flat, raster, positions, faces), flat)


def test_hidden_silhouettes_change_nothing():
    """A triangle behind a wall: its outline does not shine through."""
    wall = torch.tensor([[-20.0, -20.0], [60.0, -20.0], [-20.0, 60.0]])
    hidden = torch.tensor([[3.2, 3.1], [9.4, 4.2], [5.1, 10.3]])
    points, w = torch.cat([wall, hidden]), torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    positions = from_screen(points, 16, w, z=torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 0.5]))
    faces, picture = torch.arange(6).view(2, 3), torch.rand(1, 16, 16, 1)
    raster = RASTERIZER.rasterize(positions, faces, (16, 16))
    assert (raster[..., 3] == 1).all()
    assert torch.equal(RASTERIZER.antialias(picture, raster, positions, faces), picture)
    in_front = from_screen(points, 16, 3 - w, z=torch.tensor([0.5, 0.5, 0.5, 0.0, 0.0, 0.0]))
    raster = RASTERIZER.rasterize(in_front, faces, (16, 16))
    assert not torch.equal(RASTERIZER.antialias(picture, raster, in_front, faces), picture)


def test_antialiasing_without_faces():
    picture = torch.rand(1, 4, 4, 3)
    raster, faces = torch.zeros(1, 4, 4, 4), torch.zeros(0, 3, dtype=torch.long)
    assert torch.equal(RASTERIZER.antialias(picture, raster, torch.zeros(1, 0, 4), faces), picture)


def test_silhouettes_that_reach_behind_the_camera():
    """A wall whose outline runs past the camera: blended along the visible part, with the gradient of finite differences."""
    cameras, _ = clip_positions(torch.zeros(1, 3, dtype=torch.float64), views=1)
    matrix = cameras.model_view_projection()
    corners = torch.tensor([[-9.0, -9.0, -0.4], [9.0, 3.0, -0.4], [-9.0, 8.0, -0.4]], dtype=torch.float64)
    faces, weight = torch.tensor([[0, 1, 2]]), 0.1 + torch.rand(1, 24, 24, 1, dtype=torch.float64)

    def loss(corners):
        positions = torch.einsum("vij,nj->vni", matrix, torch.nn.functional.pad(corners, (0, 1), value=1.0))
        raster = RASTERIZER.rasterize(positions, faces, (24, 24))
        covered = (raster[..., 3:] > 0).double()
        picture = RASTERIZER.antialias(covered, raster, positions, faces)
        return (picture * weight).sum(), positions, int(((picture != covered)).sum())

    leaf = corners.clone().requires_grad_()
    value, positions, blended = loss(leaf)
    assert positions[..., 3].min() < 0 < positions[..., 3].max() and blended > 10
    (gradient,) = torch.autograd.grad(value, leaf)
    direction, step = torch.randn_like(corners), 1e-6
    with torch.no_grad():
        difference = float(loss(corners + step * direction)[0] - loss(corners - step * direction)[0]) / (2 * step)
    assert abs(difference) > 1e-2
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-5)
