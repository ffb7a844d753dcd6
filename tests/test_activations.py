"""The count of what autograd keeps, against what is known of a few operations, on values and on shapes alone."""

import pytest
import torch

from benchmarks.activations import efficient_attention, kept_bytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_each_storage_counts_once_and_parameters_do_not(device: str):
    layer = torch.nn.Linear(5, 7, device=device)
    given = torch.empty(3, 5, device=device, requires_grad=True)
    assert kept_bytes(lambda: layer(given), list(layer.parameters())) == 4 * 3 * 5
    assert kept_bytes(lambda: layer(given), []) == 4 * (3 * 5 + 5 * 7)
    assert kept_bytes(lambda: (given * given).exp(), []) == 4 * 2 * 3 * 5, "the factor, and the result of exp"
    assert kept_bytes(lambda: given + 1, []) == 0


def test_attention_keeps_no_matrix():
    query, key, value = (torch.empty(1, 2, 100, 4, device="meta", requires_grad=True) for _ in range(3))

    def attend() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    with efficient_attention():
        assert kept_bytes(attend, []) == 4 * 4 * 2 * 100 * 4
    assert kept_bytes(attend, []) > 4 * 2 * 100 * 100
