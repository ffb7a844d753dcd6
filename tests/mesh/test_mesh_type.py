"""What ``Mesh.create`` accepts and what it refuses."""

import numpy
import pytest
import torch

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError
from prd_lightning.mesh import Mesh

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_types_ranges_and_unit_normals():
    mesh = Mesh.create(CORNERS.double(), FACES.int(), CORNERS * 3 - 1, CORNERS * 5 + 1)
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (numpy.float32, numpy.int64)
    assert mesh.colors.min() == 0 and mesh.colors.max() == 1
    numpy.testing.assert_allclose(numpy.linalg.norm(mesh.normals, axis=1), 1, rtol=1e-6)
    numpy.testing.assert_array_equal(mesh.vertices, CORNERS.numpy())


def test_a_vertex_of_degenerate_faces_has_a_unit_normal_too():
    normals = CORNERS + 1
    normals[1] = 0
    assert Mesh.create(CORNERS, FACES, CORNERS, normals).normals[1].tolist() == [0, 0, 1]


@pytest.mark.parametrize("name", ["vertices", "colors", "normals"])
def test_not_finite(name):
    parts = {"vertices": CORNERS.clone(), "colors": CORNERS.clone(), "normals": CORNERS.clone() + 1}
    parts[name][2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=f"1 of 4 {name}"):
        Mesh.create(faces=FACES, **parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colors": CORNERS[:3]}, r"colors must have the shape \[4, 3\], got \[3, 3\]"),
        ({"normals": torch.ones(4, 2)}, r"normals must have the shape"),
        ({"faces": FACES[:, :2]}, r"faces must have the shape \[F, 3\], got \[4, 2\]"),
        ({"faces": FACES + 1}, "faces name the vertices 1 to 4, but there are 4"),
        ({"faces": FACES - 1}, "faces name the vertices -1 to 2"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    parts = {"vertices": CORNERS, "faces": FACES, "colors": CORNERS, "normals": CORNERS + 1} | change
    with pytest.raises(ConfigurationError, match=message):
        Mesh.create(**parts)


def test_no_faces():
    with pytest.raises(EmptyMeshError):
        Mesh.create(CORNERS, FACES[:0], CORNERS, CORNERS + 1)
