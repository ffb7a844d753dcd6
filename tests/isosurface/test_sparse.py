"""The sparse search finds the signs of a dense evaluation: trained fields, random ones, rough ones, thin ones."""

import pytest
import torch
import trimesh

from benchmarks.surface_fields import random_field
from prd_lightning.errors import EmptyMeshError, NonFiniteError
from prd_lightning.field import TriplaneField
from prd_lightning.isosurface import FieldGrid, grid_points
from prd_lightning.isosurface import sparse as sparse_search
from prd_lightning.mesh.extraction import extract_surface
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import sample_planes

PROMPTS = ["a red cone", "a blue torus"]


def plain_signs(field, planes, resolution):
    """Signs by looking every point up by itself, in float64."""
    points = grid_points(resolution).double()[None]
    precise = TriplaneField(planes.geometry.shape[1], field.sdf_network[2].weight.shape[0], field.sphere_radius).double()
    precise.load_state_dict(field.state_dict())
    table = type(planes)(planes.geometry.double(), planes.texture.double(), 1, planes.height, planes.width)
    with torch.no_grad():
        return precise.sdf(table, points)[0].view([resolution + 1] * 3)


def check_same(field, planes, resolution):
    grid = FieldGrid(field, planes, resolution)
    dense, sparse = grid.dense_signs(), grid.sparse_signs()
    assert torch.equal(dense.inside, sparse.inside)
    return grid, dense, sparse


@pytest.fixture(scope="module")
def trained():
    pipeline = TextToMeshPipeline.from_pretrained("tiny", device="cpu")
    planes = sample_planes(pipeline.parts, PROMPTS, [0] * len(PROMPTS), pipeline.architecture.steps)
    return pipeline.parts.field, planes


@pytest.mark.parametrize("index", range(len(PROMPTS)))
@pytest.mark.parametrize("resolution", [64, 128])
def test_trained_fields_by_bounds_alone(trained, index, resolution):
    field, planes = trained[0], trained[1].item(index)
    _, dense, sparse = check_same(field, planes, resolution)
    assert sparse.certain and dense.evaluated == (resolution + 1) ** 3
    assert sparse.evaluated < 0.15 * dense.evaluated


def test_meshes_are_the_same_to_the_last_bit(trained):
    field, planes = trained[0], trained[1].item(0)
    (vertices, faces), (expected, expected_faces) = (extract_surface(field, planes, 64, dense) for dense in (False, True))
    assert torch.equal(faces, expected_faces) and torch.equal(vertices, expected)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


@pytest.mark.parametrize("seed", range(20))
def test_random_fields(seed):
    field, planes = random_field(seed)
    check_same(field, planes, 40)


@pytest.mark.parametrize("seed", range(12))
def test_random_fields_have_closed_meshes(seed):
    """Cut by the box or not; every edge has two faces that run along it in opposite senses."""
    field, planes = random_field(seed)
    try:
        vertices, faces = extract_surface(field, planes, 24)
    except EmptyMeshError:
        return
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forth, back = (edges @ torch.tensor(pair) for pair in ([len(vertices), 1], [1, len(vertices)]))
    assert len(forth.unique()) == len(forth), "an edge is run along twice in the same sense"
    assert torch.equal(forth.sort().values, back.sort().values)
    assert vertices.isfinite().all()


@pytest.mark.parametrize("seed", [0, 3])
def test_dense_signs_are_those_of_single_look_ups(seed):
    field, planes = random_field(seed)
    grid = FieldGrid(field, planes, 20)
    values = plain_signs(field, planes, 20)
    different = grid.dense_signs().inside != (values < 0)
    assert values[different].abs().max() < 1e-5 if different.any() else True
    assert different.float().mean() < 1e-3


def test_signs_within_rounding_are_settled_in_float64():
    """A sphere through grid points: in float32 both signs occur on it, in float64 it is what the coordinates say."""
    field = TriplaneField(4, 8, sphere_radius=0.75).requires_grad_(False)
    grid = FieldGrid(field, field.prepare(torch.zeros(1, 6, 4, 8, 8)), 24)
    axis = torch.linspace(-1, 1, 25).double()
    exact = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() - 0.75 < 0
    assert torch.equal(grid.sparse_signs().inside, exact) and torch.equal(grid.dense_signs().inside, exact)


@pytest.mark.parametrize("radius", [0.02, 0.06])
def test_small_objects_are_not_missed(radius):
    """A ball about as small as a cell: bounds find it, sampling would not have to."""
    field = TriplaneField(4, 8, sphere_radius=radius).requires_grad_(False)
    _, _, sparse = check_same(field, field.prepare(torch.zeros(1, 6, 4, 8, 8)), 64)
    assert sparse.certain and sparse.inside.any()


def test_rough_fields_are_followed_to_their_end():
    field = TriplaneField(16, 32).requires_grad_(False)
    planes = field.prepare(0.15 * torch.randn(1, 6, 16, 64, 64))
    _, dense, sparse = check_same(field, planes, 64)
    assert not sparse.certain and sparse.evaluated < 0.6 * dense.evaluated


def test_fields_with_a_surface_everywhere_are_evaluated_everywhere():
    """White noise that drowns the sphere: every block has both signs, and evaluating all points in order is certain."""
    field = TriplaneField(16, 32).requires_grad_(False)
    planes = field.prepare(5.0 * torch.randn(1, 6, 16, 64, 64))
    _, dense, sparse = check_same(field, planes, 40)
    assert sparse.certain and sparse.evaluated == dense.evaluated


def test_boxes_of_points_are_the_points_one_by_one(monkeypatch):
    field, planes = random_field(4)
    grid = FieldGrid(field, planes, 20)
    x, y, z = (torch.randint(0, 21, (7, length)) for length in (2, 3, 4))
    numbers = ((x[:, :, None, None] * 21 + y[:, None, :, None]) * 21 + z[:, None, None]).flatten()
    expected = grid.distances(numbers)
    for at_once in (1, 50, 10_000):
        monkeypatch.setattr(sparse_search, "BOX_POINTS_AT_ONCE", at_once)
        distances, inside = grid._settle_boxes(x, y, z)
        assert distances.shape == inside.shape == (7, 2, 3, 4)
        torch.testing.assert_close(distances.flatten(), expected)
        assert torch.equal(inside, distances < 0)


@pytest.mark.parametrize("radius", [-0.1, 2.0])
def test_empty_and_full(radius):
    field = TriplaneField(4, 8, sphere_radius=radius).requires_grad_(False)
    planes = field.prepare(torch.zeros(1, 6, 4, 8, 8))
    _, _, sparse = check_same(field, planes, 16)
    assert bool(sparse.inside.any()) == (radius > 0) and sparse.evaluated == 0
    for dense in (False, True):
        with pytest.raises(EmptyMeshError, match="full" if radius > 0 else "empty"):
            extract_surface(field, planes, 16, dense)


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_networks_that_are_not_finite(layer):
    field = TriplaneField(4, 8).requires_grad_(False)
    planes = field.prepare(torch.randn(1, 6, 4, 8, 8))
    field.sdf_network[layer].weight[0, 0] = float("nan")
    for dense in (False, True):
        with pytest.raises(NonFiniteError, match="signed distances are not finite"):
            extract_surface(field, planes, 16, dense)
