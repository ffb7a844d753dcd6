"""Names of diffusers networks back to the original layout: the inverse of the conversion, and the real files' keys in full."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from reduced import MULTIVIEW_UNET, NARROW_VAE

from prd_lightning.errors import CheckpointFormatError
from prd_lightning.teachers.conversion import unet_state_from_ldm, vae_state_from_ldm
from prd_lightning.teachers.conversion_back import unet_state_to_ldm, vae_state_to_ldm

META = torch.device("meta")


def test_a_unet_makes_the_round_trip():
    state = UNet2DConditionModel(**MULTIVIEW_UNET).state_dict()
    original = unet_state_to_ldm(state)
    assert len(original) == len(state) and all(key.startswith("model.diffusion_model.") for key in original)
    back = unet_state_from_ldm(original)
    assert back.keys() == state.keys() and all(torch.equal(back[key], value) for key, value in state.items())


def test_an_autoencoder_makes_the_round_trip_with_kernels_in_its_attention():
    state = AutoencoderKL(**NARROW_VAE).state_dict()
    original = vae_state_to_ldm(state)
    assert original["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    back = vae_state_from_ldm(original)
    assert back.keys() == state.keys() and all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["mvdream_sd21_4view_layout", "nd_mv_layout"])
def test_the_keys_are_those_of_the_real_files(golden, name):
    layout = golden.settings(name)
    with META:
        own = UNet2DConditionModel(**layout["diffusers_config"]).state_dict()
    assert {key: list(value.shape) for key, value in unet_state_to_ldm(own).items()} == layout["unet"]


def test_the_autoencoder_s_keys_are_those_of_the_real_file(golden):
    from prd_lightning.formats.multiview import VAE

    with META:
        own = AutoencoderKL(**VAE).state_dict()
    expected = golden.settings("mvdream_sd21_4view_layout")["first_stage"]
    assert {key: list(value.shape) for key, value in vae_state_to_ldm(own).items()} == expected


def test_tensors_without_a_place_are_named():
    with pytest.raises(CheckpointFormatError, match=r"no place for 1 tensors, e.g. time_embedding.linear_3.weight"):
        unet_state_to_ldm({"time_embedding.linear_3.weight": torch.zeros(1), "conv_in.weight": torch.zeros(1)})
    with pytest.raises(CheckpointFormatError, match=r"encoder.extra.weight"):
        vae_state_to_ldm({"encoder.extra.weight": torch.zeros(1)})
