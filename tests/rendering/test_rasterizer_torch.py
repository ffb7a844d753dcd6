"""The pure-PyTorch rasterizer: coverage, perspective, occlusion, antialiasing, textures, gradients."""

import pytest
import torch

from prd_lightning.cameras import orbit_cameras
from prd_lightning.isosurface import extract_isosurface, grid_points
from prd_lightning.rendering import rasterizer_torch
from prd_lightning.rendering.rasterizer_torch import TorchRasterizer, to_screen

RASTERIZER = TorchRasterizer()


def from_screen(points, size, w=None, z=None):
    """Clip-space positions [1, N, 4] of pixel coordinates [N, 2] on a square picture, with given w and z / w."""
    w = torch.ones_like(points[:, :1]) if w is None else w[:, None]
    z = torch.zeros_like(points[:, :1]) if z is None else z[:, None]
    plane = (points + 0.5) * 2 / size - 1
    return torch.cat([plane * w, z * w, w], dim=-1)[None]


def covering_mesh(size, cells=6, seed=0):
    """A triangulated grid with jittered inner points, larger than the picture: [N, 2] pixel coordinates and faces."""
    axis = torch.linspace(-2.0, size + 1.0, cells + 1)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([columns, rows], dim=-1)
    jitter = torch.rand(points.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    points[1:-1, 1:-1] += jitter[1:-1, 1:-1] * 0.7 * (axis[1] - axis[0])
    index = torch.arange((cells + 1) ** 2).view(cells + 1, cells + 1)
    a, b, c, d = (part.flatten() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.flatten(0, 1), torch.cat([torch.stack([a, b, d], dim=1), torch.stack([a, d, c], dim=1)])


def sphere_mesh(resolution=10, dtype=torch.float64):
    """Off the grid's centre, so that no vertex of the grid lies on the surface and no triangle is without area."""
    center = torch.tensor([0.013, 0.021, -0.017], dtype=dtype)
    vertices, faces = extract_isosurface((grid_points(resolution).to(dtype) - center).norm(dim=-1) - 0.583, resolution)
    return vertices - center, faces


def clip_positions(vertices, views=2):
    ones = torch.ones(views, dtype=vertices.dtype)
    cameras = orbit_cameras(20 * ones, torch.arange(views) * 100.0 + 10 * ones, 2.2 * ones, 45 * ones)
    homogeneous = torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    return cameras, torch.einsum("vij,nj->vni", cameras.model_view_projection(), homogeneous)


@pytest.mark.parametrize("seed", range(3))
def test_no_cracks_and_no_double_cover(seed):
    """Every pixel of a covered picture belongs to exactly one triangle of a flat mesh."""
    size = 40
    points, faces = covering_mesh(size, seed=seed)
    positions = from_screen(points, size)
    raster = RASTERIZER.rasterize(positions, faces, (size, size))
    assert (raster[..., 3] > 0).all(), "cracks"
    covers = sum((RASTERIZER.rasterize(positions, face[None], (size, size))[..., 3] > 0).int() for face in faces)
    assert (covers == 1).all(), "double cover"


def test_edges_and_vertices_on_pixel_centres_leave_no_cracks():
    """Pixel centres exactly on shared edges: covered, by the lower triangle of equal depth."""
    size, points = 8, torch.tensor([[0.0, 0.0], [7.0, 0.0], [0.0, 7.0], [7.0, 7.0], [3.0, 3.0]])
    faces = torch.tensor([[0, 1, 4], [1, 3, 4], [3, 2, 4], [2, 0, 4]])
    raster = RASTERIZER.rasterize(from_screen(points, size), faces, (size, size))[0, ..., 3]
    assert (raster > 0).all()
    assert torch.equal(raster.diagonal()[:4], torch.ones(4)), "the shared edge goes to the first of its triangles"
    again = RASTERIZER.rasterize(from_screen(points, size), faces, (size, size))[0, ..., 3]
    assert torch.equal(raster, again)


def test_coverage_is_the_sign_of_the_edge_functions():
    """Random triangles of both orientations against a test of every pixel."""
    size = 24
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centers = torch.stack([columns, rows], dim=-1).double()
    for _ in range(20):
        corners = torch.rand(3, 2, dtype=torch.float64) * 36 - 6
        raster = RASTERIZER.rasterize(from_screen(corners, size), torch.tensor([[0, 1, 2]]), (size, size))[0, ..., 3] > 0
        sides = []
        for index in range(3):
            along, to = corners[(index + 1) % 3] - corners[index], centers - corners[index]
            sides.append(along[0] * to[..., 1] - along[1] * to[..., 0])
        sides = torch.stack(sides)
        assert torch.equal(raster, (sides > 0).all(dim=0) | (sides < 0).all(dim=0))


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


def test_nothing_is_zero():
    vertices, faces = sphere_mesh(dtype=torch.float32)
    _, positions = clip_positions(vertices)
    raster = RASTERIZER.rasterize(positions, faces, (16, 16))
    empty = raster[..., 3] == 0
    assert empty.any() and (raster[empty] == 0).all()
    values = RASTERIZER.interpolate(torch.ones(1, len(vertices), 2), raster, faces)
    assert (values[empty] == 0).all()
    torch.testing.assert_close(values[~empty], torch.ones_like(values[~empty]))


def test_the_nearer_triangle_wins_in_any_order():
    points = torch.tensor([[-5.0, -5.0], [30.0, -5.0], [-5.0, 30.0]]).repeat(3, 1)
    z = torch.tensor([0.2, -0.3, 0.6]).repeat_interleave(3)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        faces = torch.arange(9).view(3, 3)[order]
        raster = RASTERIZER.rasterize(from_screen(points, 8, z=z), faces, (8, 8))[0]
        assert (raster[..., 3] == order.index(1) + 1).all()
        torch.testing.assert_close(raster[..., 2], torch.full((8, 8), -0.3))


def test_intersecting_triangles_are_told_apart_at_every_pixel():
    size, points = 16, torch.tensor([[-8.0, 8.0], [40.0, -40.0], [40.0, 56.0], [24.0, 8.0], [-24.0, -40.0], [-24.0, 56.0]])
    z = torch.tensor([-0.5, 0.5, 0.5, -0.5, 0.5, 0.5])
    positions, faces = from_screen(points, size, z=z), torch.arange(6).view(2, 3)
    both = RASTERIZER.rasterize(positions, faces, (size, size))[0]
    single = [RASTERIZER.rasterize(positions, face[None], (size, size))[0] for face in faces]
    depth = torch.stack([torch.where(one[..., 3] > 0, one[..., 2], torch.inf) for one in single])
    assert torch.equal(both[..., 3], (depth.argmin(dim=0) + 1).float())
    assert set(both[..., 3].flatten().tolist()) == {1.0, 2.0}


def test_chunks_change_nothing(monkeypatch):
    vertices, faces = sphere_mesh()
    _, positions = clip_positions(vertices)
    whole = RASTERIZER.rasterize(positions, faces, (24, 20))
    monkeypatch.setattr(rasterizer_torch, "CANDIDATES_PER_CHUNK", 50)
    assert torch.equal(RASTERIZER.rasterize(positions, faces, (24, 20)), whole)


def test_views_are_independent():
    vertices, faces = sphere_mesh()
    _, positions = clip_positions(vertices, 3)
    together = RASTERIZER.rasterize(positions, faces, (16, 16))
    for view in range(3):
        assert torch.equal(RASTERIZER.rasterize(positions[view : view + 1], faces, (16, 16))[0], together[view])


def test_out_of_sight_behind_and_degenerate():
    """Triangles beside the picture, behind the camera, or without area draw nothing and keep the graph connected."""
    beside = from_screen(torch.tensor([[100.0, 0.0], [120.0, 0.0], [100.0, 20.0]]), 8)
    flat = from_screen(torch.tensor([[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]), 8)
    behind = torch.tensor([[[-1.0, -1.0, 0.0, -1.0], [3.0, -1.0, 0.0, -1.0], [-1.0, 3.0, 0.0, 1.0]]])
    for positions in (beside, flat, behind):
        leaf = positions.clone().requires_grad_()
        raster = RASTERIZER.rasterize(leaf, torch.tensor([[0, 1, 2]]), (8, 8))
        assert (raster == 0).all()
        raster.sum().backward()
        assert (leaf.grad == 0).all()


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


def test_screen_coordinates():
    positions = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [2.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]]])
    assert torch.equal(to_screen(positions, 4, 8)[0], torch.tensor([[-0.5, -0.5], [7.5, 3.5], [3.5, 1.5]]))
