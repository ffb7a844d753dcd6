"""Backgrounds."""

import pytest
import torch

from prd_lightning.errors import ConfigurationError
from prd_lightning.rendering import LearnedBackground, WhiteBackground


def directions(views=4):
    return torch.nn.functional.normalize(torch.randn(views, 3, 5, 3), dim=-1)


def test_white():
    assert (WhiteBackground()(directions()) == 1).all()


@pytest.mark.parametrize("level", [0.3, 0.97])
def test_starts_uniform_at_its_level(level):
    background = LearnedBackground(6, initial_level=level)
    colors = background(directions(), torch.randn(2, 6))
    torch.testing.assert_close(colors, torch.full_like(colors, level))


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_level_must_be_reachable(level):
    with pytest.raises(ConfigurationError, match="initial_level"):
        LearnedBackground(6, initial_level=level)


def test_code_is_the_stated_one():
    background, given = LearnedBackground(6, frequencies=2), directions(1)
    code = background.encode(given)
    pi = torch.pi
    parts = [torch.ones_like(given[..., :1]), given, *(f(pi * k * given) for k in (1, 2) for f in (torch.sin, torch.cos))]
    torch.testing.assert_close(code, torch.cat(parts, dim=-1))
    assert code.shape[-1] == background.code_width


def test_each_prompt_has_its_own_map():
    background, pooled, given = LearnedBackground(6), torch.randn(2, 6), directions(4)
    torch.nn.init.normal_(background.matrix.weight, std=0.3)
    colors = background(given, pooled)
    assert colors.min() > 0 and colors.max() < 1
    for prompt in range(2):
        views = slice(2 * prompt, 2 * prompt + 2)
        torch.testing.assert_close(colors[views], background(given[views], pooled[prompt : prompt + 1]))
    assert (background(given[:2], pooled[:1]) - background(given[:2], pooled[1:])).abs().max() > 0.1


def test_differentiates():
    background = LearnedBackground(3, frequencies=1).double()
    torch.nn.init.normal_(background.matrix.weight)
    given, pooled = directions(2)[:, :1, :2].double(), torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, p: background(d, p), (given.requires_grad_(), pooled))
    background(given, pooled).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in background.parameters())
