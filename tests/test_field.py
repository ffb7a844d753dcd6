"""The field in float64: look-ups against grid_sample, gradients against autograd and finite differences."""

import pytest
import torch
from torch.nn import functional

from prd_lightning.field import TriplaneField, orient_planes, texel_weights
from prd_lightning.isosurface import grid_points

CHANNELS, HEIGHT, WIDTH = 3, 5, 5


@pytest.fixture
def field():
    return TriplaneField(CHANNELS, hidden=8).double()


@pytest.fixture
def planes():
    return torch.randn(2, 6, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)


def random_points(count=40, spread=1.0):
    return (2 * torch.rand(2, count, 3, dtype=torch.float64) - 1) * spread


def sampled(planes, points, first):
    """The three look-ups of a triplane by ``grid_sample``, from the design's words."""
    oriented, looked_up = orient_planes(planes)[:, first : first + 3], []
    for plane, axes in enumerate(([0, 1], [0, 2], [2, 1])):
        grid = points[..., axes].unsqueeze(1)
        values = functional.grid_sample(oriented[:, plane], grid, padding_mode="zeros", align_corners=False)
        looked_up.append(values.squeeze(2).transpose(1, 2))
    return looked_up


def test_orientation():
    """Each plane is turned from an upright picture: xy transposed, xz by 180 degrees, yz by 90 degrees clockwise."""
    picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    turned = orient_planes(picture.expand(1, 6, 1, 2, 2))[0, :, 0]
    expected = [[[1.0, 3.0], [2.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]], [[3.0, 1.0], [4.0, 2.0]]] * 2
    assert torch.equal(turned, torch.tensor(expected))


@pytest.mark.parametrize("spread", [0.8, 1.0, 1.5])
def test_look_up_agrees_with_grid_sample(field, planes, spread):
    """Within the planes, in the half texel of fading at their rim, and beyond, where everything is zero."""
    points, prepared = random_points(200, spread), field.prepare(planes)
    torch.testing.assert_close(field.geometry_features(prepared, points), sum(sampled(planes, points, 0)))
    torch.testing.assert_close(field.texture_features(prepared, points), torch.cat(sampled(planes, points, 3), dim=-1))


def test_look_up_at_texel_centres_and_corners(field, planes):
    axis = torch.tensor([-1.2, -1.0, -0.8, -0.6, 0.0, 0.2, 1.0, 1.2], dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis).expand(2, -1, 3)
    prepared = field.prepare(planes)
    torch.testing.assert_close(field.geometry_features(prepared, points), sum(sampled(planes, points, 0)))


def test_weights_sum_to_one_inside_and_their_derivatives_to_zero():
    _, weights = texel_weights(random_points(50, 0.7), HEIGHT, WIDTH, derivatives=True)
    sums = weights.sum(dim=-1)
    torch.testing.assert_close(sums[..., 0, :], torch.ones_like(sums[..., 0, :]))
    torch.testing.assert_close(sums[..., 1:, :], torch.zeros_like(sums[..., 1:, :]), atol=1e-12, rtol=0)


def test_look_up_differentiates(field, planes):
    points = random_points(6).requires_grad_()
    leaf = planes.requires_grad_()
    for look_up in (field.geometry_features, field.color):
        assert torch.autograd.gradcheck(lambda p, x, f=look_up: f(field.prepare(p), x), (leaf, points), fast_mode=True)


def test_values_are_the_networks_of_the_features(field, planes):
    points, prepared = random_points(), field.prepare(planes)
    sphere = points.norm(dim=-1) - field.sphere_radius
    features = sum(sampled(planes, points, 0))
    first, second, last = (field.sdf_network[index].weight for index in (0, 2, 4))
    by_hand = (((features @ first.T).relu() @ second.T).relu() @ last.T).squeeze(-1) + sphere
    torch.testing.assert_close(field.sdf(prepared, points), by_hand)
    value, deformation = field.sdf_and_deformation(prepared, points)
    torch.testing.assert_close(value, by_hand)
    assert deformation.shape == points.shape and deformation.abs().max() > 0


def test_closed_form_gradient_is_that_of_autograd_and_finite_differences(field, planes):
    points, prepared = random_points(60, 0.98).requires_grad_(), field.prepare(planes)
    value, gradient = field.sdf_and_gradient(prepared, points)
    torch.testing.assert_close(value, field.sdf(prepared, points))
    (expected,) = torch.autograd.grad(field.sdf(prepared, points).sum(), points)
    torch.testing.assert_close(gradient, expected)
    step = 1e-6
    for axis in range(3):
        offset = torch.zeros(3, dtype=torch.float64)
        offset[axis] = step
        with torch.no_grad():
            difference = (field.sdf(prepared, points + offset) - field.sdf(prepared, points - offset)) / (2 * step)
        torch.testing.assert_close(gradient[..., axis], difference, atol=1e-6, rtol=1e-6)


def test_gradient_of_the_gradient(field, planes):
    """First-order autograd through the closed form, with respect to planes and points."""
    points = random_points(5, 0.9).requires_grad_()
    leaves = (planes.requires_grad_(), points)
    assert torch.autograd.gradcheck(lambda p, x: field.sdf_and_gradient(field.prepare(p), x), leaves, fast_mode=True)


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_gradient_of_the_gradient_in_the_network(field, planes, layer):
    """Central differences along a random direction of each weight matrix."""
    points, prepared = random_points(20, 0.9), field.prepare(planes)
    weight, step = field.sdf_network[layer].weight, 1e-6

    def loss():
        return (field.sdf_and_gradient(prepared, points)[1].norm(dim=-1) - 1).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, losses = torch.randn_like(weight), []
    with torch.no_grad():
        for shift in (step, -2 * step):
            weight.add_(direction, alpha=shift)
            losses.append(float(loss()))
    assert float((gradient * direction).sum()) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


def test_gradient_at_the_centre_is_finite(field, planes):
    points = torch.zeros(2, 1, 3, dtype=torch.float64, requires_grad=True)
    value, gradient = field.sdf_and_gradient(field.prepare(planes), points)
    (value.sum() + gradient.square().sum()).backward()
    assert torch.isfinite(gradient).all() and torch.isfinite(points.grad).all()


def test_without_planes_the_field_is_a_sphere(field, planes):
    points = random_points()
    value, gradient = field.sdf_and_gradient(field.prepare(torch.zeros_like(planes)), points)
    torch.testing.assert_close(value, points.norm(dim=-1) - 0.5)
    torch.testing.assert_close(gradient, functional.normalize(points, dim=-1))


def test_colour_reaches_black_and_white(field, planes):
    points, prepared = random_points(), field.prepare(planes)
    features = torch.cat(sampled(planes, points, 3), dim=-1)
    expected = torch.sigmoid(field.texture_network(features)) * 1.002 - 0.001
    torch.testing.assert_close(field.color(prepared, points), expected)
    with torch.no_grad():
        field.texture_network[4].weight.mul_(1e4)
        extreme = field.color(prepared, points)
    assert extreme.min() == pytest.approx(-0.001, abs=1e-9) and extreme.max() == pytest.approx(1.001, abs=1e-9)


def test_grid_is_the_field_at_the_grid_points(field, planes):
    prepared, resolution = field.prepare(planes), 7
    points = grid_points(resolution).double().expand(2, -1, 3)
    torch.testing.assert_close(field.grid_sdf(prepared, resolution), field.sdf(prepared, points), atol=1e-6, rtol=1e-6)


def test_scenes_do_not_mix(field, planes):
    points, prepared = random_points(), field.prepare(planes)
    for index in range(2):
        alone = prepared.item(index)
        one = points[index : index + 1]
        torch.testing.assert_close(field.sdf(alone, one), field.sdf(prepared, points)[index : index + 1])
        torch.testing.assert_close(field.color(alone, one), field.color(prepared, points)[index : index + 1])


def test_planes_that_are_not_square_in_a_batch_of_one(field):
    """Turning by 90 degrees swaps sides, so planes are square; another shape is refused by the stacking."""
    with pytest.raises(RuntimeError, match="size"):
        field.prepare(torch.zeros(1, 6, CHANNELS, 4, 5, dtype=torch.float64))


def test_a_color_gradient_floor_changes_no_color_and_adds_to_the_derivative_of_the_sigmoid():
    torch.manual_seed(0)
    prepared = TriplaneField.prepare(torch.randn(1, 6, 4, 8, 8))
    points = torch.rand(1, 10, 3) - 0.5
    plain, floored = TriplaneField(4, 8), TriplaneField(4, 8, color_gradient_floor=0.05)
    floored.load_state_dict(plain.state_dict())
    logits = plain.texture_network(plain.texture_features(prepared, points))
    derivative = 1.002 * torch.sigmoid(logits) * (1 - torch.sigmoid(logits)) + 0.05
    expected = torch.autograd.grad(logits, plain.texture_network[4].weight, derivative)[0]
    assert torch.equal(plain.color(prepared, points), floored.color(prepared, points))
    given = torch.autograd.grad(floored.color(prepared, points).sum(), floored.texture_network[4].weight)[0]
    torch.testing.assert_close(given, expected)


def test_a_point_that_is_not_finite_has_no_finite_distance_and_leaves_the_others_alone(field, planes):
    prepared = field.prepare(planes)
    points = random_points()
    expected = field.sdf(prepared, points)
    spoiled = points.clone()
    spoiled[:, 0, 1], spoiled[:, 1, 2] = torch.nan, torch.inf
    found = field.sdf(prepared, spoiled)
    assert not torch.isfinite(found[:, :2]).any()
    torch.testing.assert_close(found[:, 2:], expected[:, 2:])
    assert not torch.isfinite(field.sdf_and_gradient(prepared, spoiled)[0][:, 0]).any()


def test_no_points_have_no_values(field, planes):
    """A band of a texture may hold no texel of the surface."""
    prepared, none = field.prepare(planes), planes.new_zeros(len(planes), 0, 3)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            assert field.color(prepared, none).shape == none.shape
            assert field.sdf(prepared, none).shape == none.shape[:2]
            value, gradient = field.sdf_and_gradient(prepared, none)
            assert value.shape == none.shape[:2] and gradient.shape == none.shape
