"""NeuS in pure functions: closed forms, sums, resampling, gradients."""

import pytest
import torch

from prd_lightning.rendering.neus import (
    INVERSE_STANDARD_DEVIATION,
    depth_variance,
    neus_alpha,
    render_weights,
    resample,
    volsdf_alpha,
    volsdf_density,
)


def test_alpha_is_the_fall_of_the_sigmoid_over_a_section():
    sdf, cosine, lengths, k = torch.linspace(-0.05, 0.05, 11), -0.8, 0.02, INVERSE_STANDARD_DEVIATION
    before, after = torch.sigmoid((sdf + 0.008) * k), torch.sigmoid((sdf - 0.008) * k)
    expected = ((before - after + 1e-5) / (before + 1e-5)).clamp(0, 1)
    torch.testing.assert_close(neus_alpha(sdf, cosine, lengths), expected)
    torch.testing.assert_close(neus_alpha(sdf, torch.full_like(sdf, cosine), torch.full_like(sdf, lengths)), expected)


def test_surfaces_that_face_away_are_parallel():
    sdf = torch.randn(20) * 0.02
    for cosine in (torch.rand(20), 0.7):
        away, parallel = neus_alpha(sdf, cosine, 0.05), neus_alpha(sdf, 0.0, 0.05)
        torch.testing.assert_close(away, parallel)


def test_far_outside_nothing_is_opaque():
    assert neus_alpha(torch.full((5,), 0.5), -1.0, 0.05).max() < 1e-4


def test_a_plane_is_hit_where_it_stands():
    """A ray that meets a plane head-on: the mean depth is the plane's, the weight one, whatever the number of sections."""
    for count in (64, 256):
        edges = torch.linspace(0.1, 4.0, count + 1)
        middle, lengths = 0.5 * (edges[1:] + edges[:-1]), edges.diff()
        weights = render_weights(neus_alpha(2.0 - middle, -1.0, lengths)[None])[0]
        assert float(weights.sum()) == pytest.approx(1.0, abs=2e-3)
        assert float((weights * middle).sum()) == pytest.approx(2.0, abs=0.02)


def test_annealed_slopes_lie_between_half_the_angle_and_neus():
    sdf, cosine, lengths = torch.linspace(-0.03, 0.03, 7), torch.linspace(-1, 1, 7), 0.02
    half_angle = neus_alpha(sdf, (cosine - 1) / 2, lengths)
    torch.testing.assert_close(neus_alpha(sdf, cosine, lengths, annealing=0.0), half_angle)
    torch.testing.assert_close(neus_alpha(sdf, cosine, lengths, annealing=1.0), neus_alpha(sdf, cosine, lengths))
    slope = 0.3 * cosine.clamp_max(0) + 0.7 * (cosine - 1) / 2
    torch.testing.assert_close(neus_alpha(sdf, cosine, lengths, annealing=0.3), neus_alpha(sdf, slope, lengths))


def test_volsdf_density_is_the_laplace_distribution():
    sdf = torch.linspace(-0.1, 0.1, 21, dtype=torch.float64)
    for k in (10.0, 80.0):
        laplace = torch.distributions.Laplace(torch.zeros((), dtype=torch.float64), 1 / k)
        torch.testing.assert_close(volsdf_density(sdf, k), k * laplace.cdf(-sdf))
    torch.testing.assert_close(volsdf_density(sdf, 1e4), volsdf_density(sdf, 80.0))


def test_volsdf_alpha_is_the_absorption_of_a_section():
    sdf = torch.tensor([-0.5, 0.0, 0.01, 0.5])
    torch.testing.assert_close(volsdf_alpha(sdf, 0.1, 20.0), 1 - torch.exp(-0.1 * volsdf_density(sdf, 20.0)))
    torch.testing.assert_close(volsdf_alpha(sdf, 0.1, 20.0, linear=True), 0.1 * volsdf_density(sdf, 20.0))
    assert volsdf_alpha(sdf, 10.0, 20.0).max() <= 1 < volsdf_alpha(sdf, 10.0, 20.0, linear=True).max()


def test_depth_variance_of_two_walls():
    weights, middle = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), torch.tensor([[1.0, 2.0, 3.0]] * 2)
    depth = (weights * middle).sum(-1, keepdim=True)
    assert depth_variance(weights, middle, depth).tolist() == [[1.0], [0.0]]


def test_weights_are_products_of_what_is_left():
    alpha = torch.rand(3, 6, dtype=torch.float64)
    weights, left = render_weights(alpha), torch.ones(3, dtype=torch.float64)
    for index in range(6):
        torch.testing.assert_close(weights[:, index], alpha[:, index] * left)
        left = left * (1 - alpha[:, index])
    torch.testing.assert_close(weights.sum(dim=1), 1 - left)


def test_differentiates():
    sdf, cosine = (torch.randn(2, 5, dtype=torch.float64) * 0.02).requires_grad_(), -torch.rand(2, 5, dtype=torch.float64)
    lengths = torch.full((2, 5), 0.03, dtype=torch.float64)

    def weights(sdf, cosine):
        return render_weights(neus_alpha(sdf, cosine, lengths))

    assert torch.autograd.gradcheck(weights, (sdf, cosine.requires_grad_()))


def test_opaque_sections_have_finite_gradients():
    alpha = torch.tensor([[0.5, 1.0, 0.3, 1.0]], requires_grad=True)
    render_weights(alpha).square().sum().backward()
    assert torch.isfinite(alpha.grad).all()


def test_resampling_a_uniform_weight_keeps_sections_even():
    edges = torch.linspace(0, 1, 9).expand(2, -1)
    new = resample(edges, torch.ones(2, 8), 4)
    torch.testing.assert_close(new, ((torch.arange(5) + 0.5) / 5).expand(2, -1))
    shifted = resample(edges, torch.ones(2, 8), 4, torch.tensor([[0.0], [0.9]]))
    torch.testing.assert_close(shifted, (torch.arange(5) + torch.tensor([[0.0], [0.9]])) / 5)


def test_resampling_goes_where_the_weight_is():
    edges, weights = torch.linspace(0, 1, 11)[None], torch.zeros(1, 10)
    weights[0, 6] = 1.0
    new = resample(edges, weights, 32)
    assert new.shape == (1, 33) and (new.diff() > 0).all()
    assert ((new > 0.59) & (new < 0.71)).float().mean() > 0.9


def test_resampling_inverts_the_cumulative_weight():
    """Each new section holds the same share of the old weight."""
    edges = torch.cat([torch.zeros(1), torch.rand(12).cumsum(0)])[None].double()
    weights = torch.rand(1, 12, dtype=torch.float64) + 0.1
    new = resample(edges, weights, 20)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), (weights + 1e-5 / 12)[0].cumsum(0)])
    cumulative /= cumulative[-1].clone()
    index = torch.searchsorted(edges[0], new[0], right=True).clamp(1, 12)
    share = (new[0] - edges[0][index - 1]) / (edges[0][index] - edges[0][index - 1])
    reached = cumulative[index - 1] + share * (cumulative[index] - cumulative[index - 1])
    torch.testing.assert_close(reached.diff(), torch.full_like(reached.diff(), 1 / 21))


def test_rays_without_weight_stay_finite():
    new = resample(torch.linspace(0, 1, 9)[None], torch.zeros(1, 8), 5)
    assert torch.isfinite(new).all() and (new.diff() > 0).all()
