"""The numbers of a generator: to a header and back, and the parts that they build."""

import pytest
import torch

from prd_lightning.architecture import Architecture, trainable_state
from prd_lightning.errors import CheckpointFormatError, ConfigurationError

ARCHITECTURE = Architecture("tinyworld:stable_diffusion", plane_channels=8, rank=2, latent_size=8, hidden=16, sphere_radius=0.4)


def test_to_plain_values_and_back():
    assert Architecture.from_dict(ARCHITECTURE.to_dict()) == ARCHITECTURE
    assert Architecture.from_dict({"base": "x"}) == Architecture("x")


def test_a_foreign_header_is_refused():
    with pytest.raises(CheckpointFormatError, match=r"unknown entries \['depth'\]"):
        Architecture.from_dict({"base": "x", "depth": 3})
    with pytest.raises(CheckpointFormatError, match="does not name its base"):
        Architecture.from_dict({"rank": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [("plane_channels", 16), ("rank", 4), ("per_plane", False), ("latent_size", 16), ("hidden", 32), ("sphere_radius", 0.5)],
)
def test_any_other_number_is_refused_with_both_values(name: str, value: object):
    other = Architecture.from_dict(ARCHITECTURE.to_dict() | {name: value})
    with pytest.raises(CheckpointFormatError, match=f"{name}={value} but this run has {name}={getattr(ARCHITECTURE, name)}"):
        ARCHITECTURE.check_same(other)


def test_where_the_base_lies_and_how_adapters_are_computed_does_not_matter():
    ARCHITECTURE.check_same(Architecture.from_dict(ARCHITECTURE.to_dict() | {"base": "/elsewhere", "compute": "merged"}))


def test_the_parts_have_the_numbers():
    parts = ARCHITECTURE.build(cache_size=3)
    assert parts.generator.latent_shape == (4, 8, 8) and parts.generator.plane_channels == 8
    assert parts.field.sphere_radius == 0.4 and parts.field.sdf_network[0].weight.shape == (16, 4)
    assert parts.prompt_encoder.cache_size == 3 and parts.noise_schedule.num_timesteps == 1000
    assert all(layer.down.shape[1] == 2 for _, layer in parts.generator.adapted_layers())


def test_the_latent_is_half_the_size_of_the_base_s_unless_named():
    assert Architecture("tinyworld:stable_diffusion", plane_channels=8, rank=1).build().generator.latent_shape == (4, 8, 8)


def test_trained_tensors_make_the_round_trip_and_the_background_s_are_left_out():
    torch.manual_seed(0)
    first, second = ARCHITECTURE.build(), ARCHITECTURE.build()
    state = {name: value.detach().clone() for name, value in trainable_state(first.generator, first.field).items()}
    assert {name.split(".")[0] for name in state} == {"generator", "field"}
    second.load(state | {"background.bias": torch.zeros(3)})
    for name, value in trainable_state(second.generator, second.field).items():
        assert torch.equal(value, state[name]), name
    del state["field.sdf_network.0.weight"]
    with pytest.raises(CheckpointFormatError, match=r"lacks 1 tensors.*field\.sdf_network\.0\.weight"):
        second.load(state)


def test_mistakes_are_named_when_the_parts_are_built():
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        Architecture("tinyworld:stable_diffusion", rank=0).build()
    with pytest.raises(ConfigurationError, match="has no model 'nothing'"):
        Architecture("tinyworld:nothing").build()
