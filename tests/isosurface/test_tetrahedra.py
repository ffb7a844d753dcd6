"""Iso-surfaces: closed, manifold, outward, differentiable; trimesh is the judge."""

import math

import pytest
import torch
import trimesh

from prd_lightning.errors import ConfigurationError
from prd_lightning.isosurface import (
    close_boundary,
    deform,
    ends_of_edges,
    extract_isosurface,
    find_surface,
    grid_points,
    surface_vertices,
)

RESOLUTION = 16


def sphere(radius=0.6, resolution=RESOLUTION, center=(0.03, -0.02, 0.01)):
    return (grid_points(resolution) - torch.tensor(center)).norm(dim=-1) - radius


def torus(resolution=RESOLUTION):
    x, y, z = grid_points(resolution).unbind(dim=-1)
    return torch.hypot(torch.hypot(x, y) - 0.55, z) - 0.25


def mesh_of(vertices, faces):
    return trimesh.Trimesh(vertices.detach().numpy(), faces.numpy(), process=False)


def check_closed(vertices, faces):
    """Every edge has exactly two faces, which run along it in opposite senses; no vertex is left over."""
    mesh = mesh_of(vertices, faces)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert len(torch.unique(faces)) == len(vertices)
    assert mesh.volume > 0, "faces are counter-clockwise seen from outside"
    return mesh


def test_sphere():
    vertices, faces = extract_isosurface(sphere(resolution=32), 32)
    mesh = check_closed(vertices, faces)
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)
    distance = (vertices - torch.tensor([0.03, -0.02, 0.01])).norm(dim=-1)
    assert (distance - 0.6).abs().max() < 0.005
    normals, centres = torch.tensor(mesh.face_normals.copy()), torch.tensor(mesh.triangles_center.copy())
    assert ((normals * centres).sum(-1) > 0).all()


def test_torus_has_its_hole():
    assert check_closed(*extract_isosurface(torus(32), 32)).euler_number == 0


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_closed_and_manifold(seed):
    """All sixteen cases of a tetrahedron in every neighbourhood."""
    values = torch.randn(9**3, generator=torch.Generator().manual_seed(seed))
    mesh = check_closed(*extract_isosurface(values, 8))
    _, counts = torch.unique(torch.tensor(mesh.edges_sorted.copy()), dim=0, return_counts=True)
    assert (counts == 2).all()
    assert mesh.euler_number % 2 == 0


def test_deformed_grids_stay_closed():
    values, deformation = torch.randn(9**3), torch.randn(9**3, 3)
    vertices, faces = extract_isosurface(values, 8, deformation)
    assert mesh_of(vertices, faces).is_watertight
    assert not torch.allclose(vertices, extract_isosurface(values, 8)[0])
    assert vertices.abs().max() <= 1 + 1 / 8


def test_deformation_stays_below_half_a_cell():
    points = grid_points(4).double()
    raw = torch.full_like(points, 50.0)
    torch.testing.assert_close(deform(points, raw, 4) - points, torch.full_like(points, 0.25))
    assert deform(points, None, 4) is points
    raw = (torch.randn(4, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: deform(points[:4], value, 4), raw)


@pytest.mark.parametrize("axis", range(3))
def test_surfaces_that_leave_the_box(axis):
    """A half space: closed at the faces of the box, an open sheet without closing."""
    values = grid_points(8)[:, axis] - 0.1
    vertices, faces = extract_isosurface(values, 8)
    mesh = check_closed(vertices, faces)
    assert mesh.euler_number == 2 and vertices.abs().max() <= 1
    assert mesh.volume == pytest.approx(1.1 * 4, rel=0.3)
    open_mesh = mesh_of(*extract_isosurface(values, 8, closed=False))
    assert not open_mesh.is_watertight
    assert open_mesh.area == pytest.approx(4.0, rel=1e-4)


def test_full_box_is_closed_and_empty_box_is_empty():
    full = -torch.ones(5**3)
    mesh = check_closed(*extract_isosurface(full, 4))
    assert mesh.euler_number == 2 and mesh.volume > 1
    for closed in (True, False):
        vertices, faces = extract_isosurface(-full, 4, closed=closed)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3)
    assert len(extract_isosurface(full, 4, closed=False)[1]) == 0


def test_closing_changes_the_faces_of_the_box_only():
    values = torch.randn(6**3)
    changed = (close_boundary(values, 5) != values).view(6, 6, 6)
    assert not changed[1:-1, 1:-1, 1:-1].any()
    assert (close_boundary(values, 5).view(6, 6, 6)[0] > 0).all()


def test_zero_on_a_grid_point_is_outside_and_finite():
    values = sphere(0.5, 8, (0.0, 0.0, 0.0))
    assert (values == 0).any(), "grid points at exactly the radius"
    vertices, faces = extract_isosurface(values, 8)
    assert torch.isfinite(vertices).all() and mesh_of(vertices, faces).is_watertight


def test_vertices_are_the_zeros_of_the_edges():
    values = torch.tensor([[-1.0, 3.0], [2.0, -2.0]])
    ends = torch.tensor([[[0.0, 0, 0], [4.0, 0, 0]], [[0.0, 1, 0], [0.0, 3, 0]]])
    torch.testing.assert_close(surface_vertices(values, ends), torch.tensor([[1.0, 0, 0], [0.0, 2, 0]]))


def test_vertices_differentiate():
    values = torch.tensor([[-0.4, 0.7], [0.3, -0.9]], dtype=torch.float64, requires_grad=True)
    ends = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(surface_vertices, (values, ends))


def test_whole_extraction_differentiates():
    """Signed distances and deformation of a small grid, against finite differences (signs do not change)."""
    values = (sphere(0.55, 4).double() + 0.02 * torch.randn(125, dtype=torch.float64)).requires_grad_()
    deformation = (0.3 * torch.randn(125, 3, dtype=torch.float64)).requires_grad_()
    assert values.detach().abs().min() > 1e-3

    def area_and_vertices(values, deformation):
        vertices, faces = extract_isosurface(values, 4, deformation)
        a, b, c = vertices[faces].unbind(dim=1)
        return vertices, torch.linalg.cross(b - a, c - a).norm(dim=-1).sum()

    assert torch.autograd.gradcheck(area_and_vertices, (values, deformation), fast_mode=True)


def test_radius_moves_the_surface():
    """d volume / d radius of a sphere is its area: the gradient has the right size and sign."""
    radius = torch.tensor(0.6, requires_grad=True)
    vertices, faces = extract_isosurface(sphere(0.0, 32) - radius, 32)
    a, b, c = vertices[faces].unbind(dim=1)
    volume = (torch.linalg.cross(a, b) * c).sum() / 6
    (gradient,) = torch.autograd.grad(volume, radius)
    assert float(gradient) == pytest.approx(4 * math.pi * 0.36, rel=0.02)


def test_topology_depends_on_signs_alone():
    values = torch.randn(5**3)
    first, second = find_surface(values, 4), find_surface(values.sign() * torch.rand(5**3).add(0.1), 4)
    assert torch.equal(first.edges, second.edges) and torch.equal(first.faces, second.faces)
    ends = values[first.edges]
    assert (ends.prod(dim=1) < 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_numbering_without_sorting_is_that_of_sorted_edges(seed):
    """Vertices in the order of their edges' ends; every edge of the subdivision whose ends differ is there once."""
    values = torch.randn(6**3, generator=torch.Generator().manual_seed(seed))
    surface = find_surface(values, 5)
    key = surface.edges[:, 0] * 6**3 + surface.edges[:, 1]
    assert (key.diff() > 0).all()
    steps = torch.tensor([[bits >> 2 & 1, bits >> 1 & 1, bits & 1] for bits in range(1, 8)])
    index = torch.cartesian_prod(*[torch.arange(6)] * 3)
    ahead = index[:, None] + steps
    within = (ahead < 6).all(dim=-1)
    start = torch.arange(6**3)[:, None].expand(-1, 7)[within]
    end = (ahead @ torch.tensor([36, 6, 1]))[within]
    cut = (values[start] < 0) != (values[end] < 0)
    assert torch.equal(key, (start * 6**3 + end)[cut].sort().values)
    needed, ends = ends_of_edges(surface.edges, 6**3)
    assert torch.equal(needed, surface.edges.unique()) and torch.equal(needed[ends], surface.edges)


def test_grid_needs_two_cells():
    with pytest.raises(ConfigurationError, match="got 1"):
        grid_points(1)


def test_grid_order():
    points = grid_points(2)
    assert points.shape == (27, 3)
    assert points[1].tolist() == [-1.0, -1.0, 0.0] and points[9].tolist() == [0.0, -1.0, -1.0]
