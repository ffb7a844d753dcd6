"""Which triangle is seen where: the fill rule, occlusion, chunks, clipping; the judges are closed forms and scipy."""

import pytest
import torch
from raster_scenes import clip_positions, covering_mesh, from_screen, sphere_mesh
from scipy.spatial import Delaunay

from prd_lightning.rendering import rasterizer_coverage
from prd_lightning.rendering.rasterizer_coverage import clip_triangles, to_screen
from prd_lightning.rendering.rasterizer_torch import TorchRasterizer

RASTERIZER = TorchRasterizer()


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
    monkeypatch.setattr(rasterizer_coverage, "CANDIDATES_PER_CHUNK", 50)
    assert torch.equal(RASTERIZER.rasterize(positions, faces, (24, 20)), whole)


def test_views_are_independent():
    vertices, faces = sphere_mesh()
    _, positions = clip_positions(vertices, 3)
    together = RASTERIZER.rasterize(positions, faces, (16, 16))
    for view in range(3):
        assert torch.equal(RASTERIZER.rasterize(positions[view : view + 1], faces, (16, 16))[0], together[view])


def test_screen_coordinates():
    positions = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [2.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]]])
    assert torch.equal(to_screen(positions, 4, 8)[0], torch.tensor([[-0.5, -0.5], [7.5, 3.5], [3.5, 1.5]]))


def covers(positions, faces, size):
    """[H, W] how many of the faces, each drawn by itself, have each pixel."""
    return sum((RASTERIZER.rasterize(positions, face[None], (size, size))[0, ..., 3] > 0).int() for face in faces)


@pytest.mark.parametrize("seed", range(6))
def test_centres_on_shared_edges_and_corners_belong_to_one_triangle(seed):
    """Random triangulations whose corners are pixel centres: every centre within is covered once, whichever way faces turn."""
    size, generator = 16, torch.Generator().manual_seed(seed)
    frame = torch.tensor([[0, 0], [15, 0], [0, 15], [15, 15]])
    points = torch.cat([frame, torch.randint(0, 16, (20, 2), generator=generator)]).unique(dim=0)
    faces = torch.from_numpy(Delaunay(points.numpy()).simplices).long()
    turned = torch.rand(len(faces), generator=generator) < 0.5
    faces[turned] = faces[turned].flip(1)
    positions = from_screen(points.float(), size)
    # The frame's top and left edges are kept, its bottom and right edges are not.
    expected = torch.ones(size, size, dtype=torch.int32)
    expected[-1], expected[:, -1] = 0, 0
    assert torch.equal(covers(positions, faces, size), expected)
    assert torch.equal((RASTERIZER.rasterize(positions, faces, (size, size))[0, ..., 3] > 0).int(), expected)


@pytest.mark.parametrize("seed", range(3))
def test_random_triangles_in_perspective_leave_no_cracks(seed):
    """A jittered covering mesh with random w: the projection moves no pixel between triangles."""
    size, generator = 32, torch.Generator().manual_seed(seed)
    points, faces = covering_mesh(size, cells=8, seed=seed)
    positions = from_screen(points, size, 0.5 + 3 * torch.rand(len(points), generator=generator))
    assert (covers(positions, faces, size) == 1).all()


def test_top_and_left_edges_are_kept():
    """A square from centre (1, 2) to centre (5, 6) has the pixels of columns 1 to 4 and rows 2 to 5."""
    points = torch.tensor([[1.0, 2.0], [5.0, 2.0], [1.0, 6.0], [5.0, 6.0]])
    raster = RASTERIZER.rasterize(from_screen(points, 8), torch.tensor([[0, 1, 3], [0, 3, 2]]), (8, 8))[0, ..., 3]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 1:5] = True
    assert torch.equal(raster > 0, expected)


def test_out_of_sight_and_degenerate():
    """Triangles beside the picture, behind the camera, beyond the far plane or without area draw nothing and keep the graph."""
    beside = from_screen(torch.tensor([[100.0, 0.0], [120.0, 0.0], [100.0, 20.0]]), 8)
    flat = from_screen(torch.tensor([[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]), 8)
    covering = from_screen(torch.tensor([[-9.0, -9.0], [30.0, -9.0], [-9.0, 30.0]]), 8)
    behind, beyond = -covering, covering + torch.tensor([0.0, 0.0, 1.01, 0.0])
    for positions in (beside, flat, behind, beyond):
        leaf = positions.clone().requires_grad_()
        raster = RASTERIZER.rasterize(leaf, torch.tensor([[0, 1, 2]]), (8, 8))
        assert (raster == 0).all()
        raster.sum().backward()
        assert (leaf.grad == 0).all()
    assert (RASTERIZER.rasterize(covering, torch.tensor([[0, 1, 2]]), (8, 8))[..., 3] == 1).all()


def floor(cameras, height=-0.4, reach=30.0):
    """Two triangles at a height that reach far behind the camera: vertices, clip positions and faces."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) * reach
    vertices = torch.nn.functional.pad(corners, (0, 1), value=height)
    homogeneous = torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    positions = torch.einsum("vij,nj->vni", cameras.model_view_projection(), homogeneous)
    return vertices, positions, torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_triangles_that_reach_behind_the_camera_are_clipped():
    """A floor under the camera against the intersection of rays with its plane."""
    cameras, _ = clip_positions(torch.zeros(1, 3, dtype=torch.float64))
    vertices, positions, faces = floor(cameras)
    assert (positions[..., 3].amin(dim=1) < 0).all() and (positions[..., 3].amax(dim=1) > 0).all()
    raster = RASTERIZER.rasterize(positions, faces, (33, 33))
    points = RASTERIZER.interpolate(vertices[None], raster, faces)
    origins, directions = cameras.rays(33, 33)
    distance = (-0.4 - origins[..., 2]) / directions[..., 2]
    hits = origins + distance[..., None] * directions
    expected = (distance > 0) & (hits[..., :2].abs() < 30).all(dim=-1)
    covered = raster[..., 3] > 0
    assert 0.2 < expected.double().mean() < 1
    assert torch.equal(covered, expected)
    torch.testing.assert_close(points[covered], hits[covered], atol=1e-9, rtol=1e-9)


def test_clipped_neighbours_leave_no_cracks():
    """A fan around a point near the camera, all of whose triangles reach behind it."""
    cameras, _ = clip_positions(torch.zeros(1, 3), views=1)
    rim = torch.arange(12) * (2 * torch.pi / 12)
    vertices = torch.stack([40 * rim.cos(), 40 * rim.sin(), torch.full_like(rim, -0.4)], dim=-1)
    vertices = torch.cat([torch.tensor([[1.9, 0.3, -0.4]]), vertices])
    faces = torch.tensor([[0, 1 + k, 1 + (k + 1) % 12] for k in range(12)])
    positions = torch.einsum(
        "vij,nj->vni", cameras.model_view_projection(), torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    )
    count = covers(positions, faces, 48)
    _, directions = cameras.rays(48, 48)
    below = directions[0, ..., 2] < -0.1
    assert (count <= 1).all()
    assert (count[below] == 1).all() and below.float().mean() > 0.3


def test_clipping_keeps_points_orientation_and_area():
    """Clipped pieces are in front of the plane, turn the same way and have the area of the part in front."""
    corners = torch.randn(200, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    corners[..., 3], corners[..., :2] = 1.0, corners[..., :2]
    pieces, owner = clip_triangles(corners, torch.arange(200))
    assert (pieces[..., 2] + pieces[..., 3]).min() > -1e-12

    def area(shapes):
        side, other = (shapes[:, index, :3] - shapes[:, 0, :3] for index in (1, 2))
        return torch.linalg.cross(side, other)

    kept = torch.zeros(200, 3, dtype=torch.float64).index_add(0, owner, area(pieces))
    whole = area(corners)
    share = (kept * whole).sum(-1) / whole.square().sum(-1)
    torch.testing.assert_close(kept, share[:, None] * whole)
    # Along z, the part of a triangle in front of z = -1 by sorting its corners' depths (a known integral).
    depth = corners[..., 2] + 1
    a, b, c = depth.sort(dim=1).values.unbind(dim=1)
    behind_one, behind_two = a.square() / ((b - a) * (c - a)), 1 - c.square() / ((c - a) * (c - b))
    expected = 1 - torch.where(a >= 0, 0.0, torch.where(b >= 0, behind_one, torch.where(c >= 0, behind_two, 1.0)))
    torch.testing.assert_close(share, expected)
