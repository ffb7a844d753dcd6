"""Attention against its formula, and its precision under autocast."""

import torch

from prd_lightning.attention import attend


def test_attention_is_the_softmax_of_scaled_products():
    query, key, value = (torch.randn(2, 3, count, 8, dtype=torch.float32) for count in (5, 7, 7))
    weights = (0.3 * query @ key.transpose(-1, -2)).softmax(dim=-1)
    torch.testing.assert_close(attend(query, key, value, 0.3), weights @ value)


def test_half_precision_goes_in_and_comes_out_and_the_cpu_computes_in_32_bits():
    given = [torch.randn(1, 2, 64, 8).bfloat16().requires_grad_() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(*given, 1.0)
    exact = attend(*(value.float() for value in given), 1.0)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, exact.bfloat16(), rtol=0, atol=0)
    mixed.float().sum().backward()
    assert given[2].grad.dtype == torch.bfloat16


def test_double_precision_stays_double():
    query, key, value = (torch.randn(1, 2, 4, 8, dtype=torch.float64) for _ in range(3))
    expected = (0.3 * query @ key.transpose(-1, -2)).softmax(dim=-1) @ value
    torch.testing.assert_close(attend(query, key, value, 0.3), expected, rtol=1e-13, atol=1e-13)
