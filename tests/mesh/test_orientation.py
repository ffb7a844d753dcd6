"""From a prompt to a file: objects that the shipped generator makes stand upright and face the documented way in every format."""

import numpy
import pytest
import trimesh

from prd_lightning.mesh import FORMATS, Mesh, MeshOptions, Placement, save_mesh

# Axis of the file that points up, and the one that the object faces.
DIRECTIONS = {"glb": (1, 2), "obj": (1, 2), "ply": (2, 0), "stl": (2, 0)}


@pytest.fixture(scope="module")
def made(tiny) -> dict[str, Mesh]:
    """A wedge, low in front, and two colours above one another."""
    prompts = ["a blue wedge", "a red cone on a blue cube"]
    return dict(zip(("wedge", "pair"), tiny(prompts, options=MeshOptions(resolution=40)).meshes))


def read(path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, process=False)
    return next(iter(loaded.geometry.values())) if isinstance(loaded, trimesh.Scene) else loaded


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_wedge_is_low_where_it_faces(made, tmp_path, suffix):
    shape = read(save_mesh(made["wedge"], tmp_path / f"wedge.{suffix}", placement=Placement(size=1.0)))
    up, front = DIRECTIONS[suffix]
    points = numpy.asarray(shape.vertices) * (0.001 if suffix == "stl" else 1)
    assert numpy.ptp(points, axis=0).max() == pytest.approx(1.0, rel=1e-4)
    ahead, behind = (points[sign * points[:, front] > 0.15][:, up] for sign in (1, -1))
    assert ahead.max() < behind.max() - 0.03  # the upper side falls towards the front
    assert abs(ahead.min() - behind.min()) < 0.05  # the lower one is level


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_what_lies_on_top_is_on_top(made, tmp_path, suffix):
    shape = read(save_mesh(made["pair"], tmp_path / f"pair.{suffix}"))
    up, _ = DIRECTIONS[suffix]
    stored = shape.visual.vertex_attributes["color"] if suffix == "glb" else shape.visual.vertex_colors
    red = stored[:, 0].astype(float) > stored[:, 2]
    assert 0.1 < red.mean() < 0.9
    assert shape.vertices[red, up].mean() > shape.vertices[~red, up].mean() + 0.2
