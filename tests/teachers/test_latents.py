"""Pictures to latents and back."""

import pytest
import torch
import torch.nn.functional as functional

from prd_lightning.teachers.latents import decode_rgb, encode_rgb, latent_size
from prd_lightning.teachers.loading import load_autoencoder


@pytest.fixture(scope="module")
def vae():
    return load_autoencoder("tinyworld:stable_diffusion")


def test_latents_are_the_scaled_posterior_mean_of_signed_pictures(vae):
    rgb = torch.rand(2, 16, 16, 3)
    expected = vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(encode_rgb(vae, rgb, 16), expected)


def test_pictures_are_resized_first(vae):
    rgb = torch.rand(1, 32, 32, 3)
    small = functional.avg_pool2d(rgb.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(encode_rgb(vae, rgb, 16), encode_rgb(vae, small, 16))


def test_the_size_of_a_latent(vae):
    size = latent_size(vae, 32)
    assert encode_rgb(vae, torch.rand(1, 32, 32, 3), 32).shape == (1, 4, size, size)


def test_encoding_is_differentiable_in_the_pictures(vae):
    """Central differences along the gradient, in double precision."""
    double = load_autoencoder("tinyworld:stable_diffusion").double()
    rgb = torch.rand(1, 8, 8, 3, dtype=torch.float64).requires_grad_()
    weights = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((encode_rgb(double, rgb, 8) * weights).sum(), rgb)
    direction = gradient / gradient.norm()
    high, low = ((encode_rgb(double, rgb + sign * 1e-5 * direction, 8) * weights).sum() for sign in (1, -1))
    assert float((high - low) / 2e-5) == pytest.approx(float(gradient.norm()), rel=1e-6)


def test_decoding_undoes_encoding_of_a_plain_picture(vae):
    rgb = torch.ones(1, 64, 64, 3)
    rgb[:, 20:44, 20:44] = torch.tensor([0.85, 0.1, 0.1])
    restored = decode_rgb(vae, encode_rgb(vae, rgb, 64))
    assert restored.shape == rgb.shape
    assert (restored - rgb).abs().mean() < 0.05
    assert restored.min() >= 0 and restored.max() <= 1


@pytest.mark.parametrize("kind", ["mvdream", "stable_diffusion"])
def test_the_encoder_keeps_a_graph_only_where_the_gradient_needs_it(request, kind):
    pictures = torch.rand(1, 3, 16, 16, requires_grad=True)
    for space in ("latent", "picture"):
        latents = request.getfixturevalue(kind)(space=space).encode(pictures)
        assert latents.requires_grad == (space == "latent")
