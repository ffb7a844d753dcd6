"""Meshes of fields: on the surface, coloured by the field, normals outwards, closed; and fields that have no surface."""

import pytest
import torch
import trimesh

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.mesh import Mesh, extract_mesh
from prd_lightning.rendering import MeshRenderer

RESOLUTION = 24


def sphere(radius: float, batch: int = 1) -> tuple[TriplaneField, PreparedPlanes]:
    """Planes of zeros: the field is a sphere and gray."""
    field = TriplaneField(channels=4, hidden=8, sphere_radius=radius)
    return field, field.prepare(torch.zeros(batch, 6, 4, 8, 8))


def bumpy(scale: float = 1.0) -> tuple[TriplaneField, PreparedPlanes]:
    """Random planes."""
    field = TriplaneField(channels=4, hidden=16)
    return field, field.prepare(torch.randn(1, 6, 4, 8, 8) * scale)


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_sphere_in_closed_form():
    mesh = extract_mesh(*sphere(0.5), resolution=48)
    shape, points = as_trimesh(mesh), torch.from_numpy(mesh.vertices)
    longest_edge = 3**0.5 * 2 / 48  # linear interpolation along an edge of length h errs by h^2 / (8 r) at most
    assert (points.norm(dim=-1) - 0.5).abs().max() < longest_edge**2 / (8 * 0.5)
    torch.testing.assert_close(torch.from_numpy(mesh.normals), points / points.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(mesh.colors), torch.full_like(points, 0.5), atol=1e-6, rtol=0)
    assert shape.is_watertight and shape.is_winding_consistent
    assert shape.volume == pytest.approx(4 / 3 * torch.pi * 0.125, rel=0.01)  # positive: faces point outwards


def test_attributes_are_those_of_the_field_at_the_vertices():
    field, prepared = bumpy()
    mesh = extract_mesh(field, prepared, RESOLUTION)
    points = torch.from_numpy(mesh.vertices)[None]
    expected = field.color(prepared, points)[0].clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(mesh.colors), expected.detach(), atol=1e-5, rtol=0)
    assert mesh.colors.std() > 0.01
    step = 0.02 * torch.from_numpy(mesh.normals)[None]
    rises = field.sdf(prepared, points + step) > field.sdf(prepared, points - step)
    assert rises.float().mean() > 0.98  # all but creases of the piecewise field


def test_the_surface_is_the_mesh_renderers():
    field, prepared = bumpy()
    vertices, faces = MeshRenderer(RESOLUTION).extract(field, prepared)[0]
    mesh = extract_mesh(field, prepared, RESOLUTION)
    torch.testing.assert_close(torch.from_numpy(mesh.vertices), vertices.detach())
    assert (torch.from_numpy(mesh.faces) == faces).all()


def test_a_surface_that_the_box_cuts_is_closed():
    mesh = extract_mesh(*sphere(1.3), resolution=RESOLUTION)
    shape = as_trimesh(mesh)
    assert shape.is_watertight
    assert abs(mesh.vertices).max() <= 1
    # The ball of radius 1.3 without its six caps beyond the box (they do not meet: 1.3 < sqrt(2)).
    radius, height = 1.3, 0.3
    caps = 6 * torch.pi * height**2 * (3 * radius - height) / 3
    assert shape.volume == pytest.approx(4 / 3 * torch.pi * radius**3 - caps, rel=0.02)


def test_a_part_of_a_batch():
    field, prepared = sphere(0.5, batch=2)
    assert len(extract_mesh(field, prepared.item(1), RESOLUTION).faces)
    with pytest.raises(ConfigurationError, match="planes of 2"):
        extract_mesh(field, prepared, RESOLUTION)


@pytest.mark.parametrize(("radius", "message"), [(-0.1, "field is empty"), (2.0, "field is full")])
def test_no_surface(radius, message):
    with pytest.raises(EmptyMeshError, match=message) as caught:
        extract_mesh(*sphere(radius), resolution=RESOLUTION)
    assert "try another seed" in str(caught.value)


def test_an_object_that_only_touches_the_walls():
    field = TriplaneField(channels=4, hidden=8, sphere_radius=-0.5)
    # A grid point lies between two texels. The first two cancel, so one side of the box sees the first texel alone, and there the
    # networks below pull the distance under zero.
    planes = torch.zeros(1, 6, 4, 8, 8)
    planes[:, 0, 0, 0, :], planes[:, 0, 0, 1, :] = 1e3, -1e3
    prepared = field.prepare(planes)
    with torch.no_grad():
        for index, layer in enumerate((0, 2, 4)):
            field.sdf_network[layer].weight.fill_(-0.1 if index == 2 else 0.1)
    sdf = field.grid_sdf(prepared, 8).view(9, 9, 9)
    assert (sdf < 0).any() and not (sdf[1:-1, 1:-1, 1:-1] < 0).any()
    with pytest.raises(EmptyMeshError, match="walls"):
        extract_mesh(field, prepared, resolution=8)


@pytest.mark.parametrize("kind", ["geometry", "texture"])
def test_planes_that_are_not_finite(kind):
    field, prepared = sphere(0.5)
    getattr(prepared, kind)[40, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="planes are not finite"):
        extract_mesh(field, prepared, RESOLUTION)


def test_networks_that_are_not_finite():
    field, prepared = bumpy()
    with torch.no_grad():
        field.sdf_network[2].weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="signed distances are not finite"):
        extract_mesh(field, prepared, RESOLUTION)


@pytest.mark.parametrize("resolution", [0, 7, 513])
def test_resolutions_out_of_range(resolution):
    with pytest.raises(ConfigurationError, match=f"between 8 and 512 cells, got {resolution}"):
        extract_mesh(*sphere(0.5), resolution=resolution)
