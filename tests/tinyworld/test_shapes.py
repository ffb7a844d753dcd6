"""Signed distances of the primitives: safe for sphere tracing, right in sign, inside their ball."""

import pytest
import torch

from prd_lightning.errors import ConfigurationError
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, Part, Scene, scene_color, scene_distance, scene_normal

SCENES = [Scene.single(shape, "red") for shape in PRIMITIVES] + [
    Scene.composition(("cone", "red"), ("cube", "blue"), arrangement) for arrangement in ("on", "beside")
]


def points(count: int, reach: float = 1.0) -> torch.Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1) * reach


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_a_distance_never_exceeds_the_true_one(scene: Scene):
    """Points of the other sign are at least as far away as the distance says: no step goes through the surface."""
    here, there = points(400), points(8000, 0.8)
    near, far = scene_distance(scene, here), scene_distance(scene, there)
    gaps = torch.cdist(here, there)
    to_inside = gaps.masked_fill(far[None] > 0, float("inf")).amin(dim=1)
    to_outside = gaps.masked_fill(far[None] < 0, float("inf")).amin(dim=1)
    true = torch.where(near > 0, to_inside, to_outside)
    assert (near.abs() <= true + 1e-9).all()


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_a_distance_changes_by_no_more_than_one_per_unit(scene: Scene):
    first, second = points(3000), points(3000).flip(0)
    change = (scene_distance(scene, first) - scene_distance(scene, second)).abs()
    assert (change <= (first - second).norm(dim=-1) + 1e-9).all()


@pytest.mark.parametrize("shape", PRIMITIVES)
def test_primitives_fit_their_ball_and_have_an_inside(shape: str):
    everywhere = points(60_000)
    inside = everywhere[scene_distance(Scene.single(shape, "red"), everywhere) < 0]
    assert len(inside) > 600
    assert inside.norm(dim=-1).max() <= 0.82


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_normals_are_unit_and_follow_the_gradient(scene: Scene):
    where = points(200).requires_grad_()
    (gradient,) = torch.autograd.grad(scene_distance(scene, where).sum(), where)
    normal = scene_normal(scene, where.detach())
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-9)
    agreement = (normal * torch.nn.functional.normalize(gradient, dim=-1)).sum(dim=-1)
    assert (agreement > 0.999).double().mean() > 0.95, "all but points beside an edge"


def test_arrangements_are_where_they_say():
    above, beside = (Scene.composition(("cone", "red"), ("cube", "blue"), name) for name in ("on", "beside"))
    assert above.parts[0].center[2] > above.parts[1].center[2]
    assert beside.parts[0].center[1] < beside.parts[1].center[1], "y grows to the right"
    assert above.concepts == (("cone", "red"), ("cube", "blue"))


def test_colours_are_those_of_the_nearest_part_and_brighter_towards_the_light():
    scene = Scene.composition(("sphere", "red"), ("sphere", "blue"), "on")
    where = torch.tensor([[0.0, 0, 0.7], [0.0, 0, -0.7]])
    lit, shaded = (scene_color(scene, where, sign * torch.tensor([[0.42, -0.30, 0.856]] * 2)) for sign in (1, -1))
    torch.testing.assert_close(lit, torch.tensor([COLORS["red"], COLORS["blue"]]), rtol=0, atol=1e-3)
    torch.testing.assert_close(shaded, 0.7 * lit, rtol=0, atol=1e-3)


def test_unknown_words_are_named():
    with pytest.raises(ConfigurationError, match="unknown primitive 'teapot'; known: sphere"):
        Part("teapot", "red")
    with pytest.raises(ConfigurationError, match="unknown colour 'mauve'; known: red"):
        Part("cube", "mauve")
    with pytest.raises(ConfigurationError, match="unknown arrangement 'in'"):
        Scene.composition(("cube", "red"), ("cone", "blue"), "in")
