"""Original checkpoints: files, foreign keys, and names against an independent converter.

The conversion itself is also checked against recorded networks in ``tests/golden/test_golden_multiview.py``.
"""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.teachers.conversion import (
    MVDREAM_UNET,
    UNET_PREFIX,
    autoencoder_from_ldm,
    check_other_keys,
    fill,
    multiview_unet_from_ldm,
    read_ldm_checkpoint,
    unet_key,
    unet_state_from_ldm,
    vae_key,
)

TINY = MVDREAM_UNET | {
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
LAYERS = TINY["layers_per_block"]


def original_names(layers: int, resolutions: int = 4) -> list[str]:
    """Stems of every entry that a UNet of that shape can have, written down from the layout's description."""
    residual = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"]
    blocks = "transformer_blocks.0"
    attention = ["norm", "proj_in", "proj_out"] + [f"{blocks}.norm{i}" for i in (1, 2, 3)]
    attention += [f"{blocks}.attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")]
    attention += [f"{blocks}.ff.net.0.proj", f"{blocks}.ff.net.2"]
    stems = ["time_embed.0", "time_embed.2", "camera_embed.0", "camera_embed.2", "input_blocks.0.0", "out.0", "out.2"]
    stems += [f"middle_block.{i}.{part}" for i, parts in enumerate((residual, attention, residual)) for part in parts]
    entry = 1
    for resolution in range(resolutions):
        for _ in range(layers):
            stems += [f"input_blocks.{entry}.0.{part}" for part in residual]
            stems += [f"input_blocks.{entry}.1.{part}" for part in attention]
            entry += 1
        if resolution < resolutions - 1:
            stems.append(f"input_blocks.{entry}.0.op")
            entry += 1
    for entry in range((layers + 1) * resolutions):
        resolution, last = entry // (layers + 1), entry % (layers + 1) == layers
        stems += [f"output_blocks.{entry}.0.{part}" for part in residual]
        if resolution:
            stems += [f"output_blocks.{entry}.1.{part}" for part in attention]
        if last and resolution < resolutions - 1:
            stems.append(f"output_blocks.{entry}.{2 if resolution else 1}.conv")
    return stems


def tiny_original(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The original layout of a network: every original name whose converted name the network has."""
    own = unet.state_dict()
    names = [f"{stem}.{part}" for stem in original_names(LAYERS) for part in ("weight", "bias")]
    named = {name: unet_key(name, LAYERS) for name in names}
    return {UNET_PREFIX + name: own[ours].clone() for name, ours in named.items() if ours in own}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(**TINY)


def test_every_tensor_has_an_original_name(unet):
    original = tiny_original(unet)
    assert len(original) == len(unet.state_dict())
    copy = multiview_unet_from_ldm(original, TINY)
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in copy.state_dict().items())


def test_names_agree_with_diffusers_own_converter(unet):
    original = tiny_original(unet)
    theirs = convert_ldm_unet_checkpoint(dict(original), TINY | {"class_embed_type": None})
    ours = {name: value for name, value in unet_state_from_ldm(original, LAYERS).items() if "class_embedding" not in name}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.1.0.op.weight",
        "output_blocks.0.1.conv.weight",
        "middle_block.3.norm.weight",
        "out.1.weight",
        "label_emb.0.weight",
    ],
)
def test_names_that_no_such_network_has(name):
    assert unet_key(name, LAYERS) is None


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.down.0.block.1.conv1.weight", "encoder.down_blocks.0.resnets.1.conv1.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("decoder.up.3.block.2.nin_shortcut.bias", "decoder.up_blocks.0.resnets.2.conv_shortcut.bias"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("decoder.mid.attn_1.other.weight", None),
        ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
        ("loss.logvar", None),
    ],
)
def test_names_of_the_autoencoder(theirs, ours):
    assert vae_key(theirs, 4) == ours


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_states_that_do_not_fit_change_nothing(unet, damage):
    state, before = dict(unet.state_dict()), {name: value.clone() for name, value in unet.state_dict().items()}
    state = {name: value + 1 for name, value in state.items()}
    name = "conv_in.weight" if damage != "unknown" else "conv_in.extra"
    if damage == "missing":
        del state[name]
    else:
        state[name] = torch.zeros(1)
    with pytest.raises(CheckpointFormatError, match=name):
        fill(unet, state)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


def test_autoencoder_conversion_reports_what_does_not_fit():
    config = {"block_out_channels": (8, 8), "down_block_types": ["DownEncoderBlock2D"] * 2,
              "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4}  # fmt: skip
    with pytest.raises(CheckpointFormatError, match="first_stage_model.decoder.nonsense"):
        autoencoder_from_ldm({"first_stage_model.decoder.nonsense.weight": torch.zeros(1)}, config)
    with pytest.raises(CheckpointFormatError, match="tensors are missing"):
        autoencoder_from_ldm({"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, config)


def test_keys_of_no_known_part_are_named():
    with pytest.raises(CheckpointFormatError, match="optimizer.step"):
        check_other_keys({"betas": torch.zeros(1), "optimizer.step": torch.zeros(1)})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint_files(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    state = {f"{UNET_PREFIX}out.{index}.weight": torch.randn(40, 3) for index in range(3)}
    if suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    read = read_ldm_checkpoint(path)
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointFormatError, match=path.name):
        read_ldm_checkpoint(path)
    with pytest.raises(MissingWeightsError, match="absent"):
        read_ldm_checkpoint(tmp_path / f"absent{suffix}")


class Harmful:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_checkpoints_run_no_code(tmp_path):
    path, trace = tmp_path / "model.ckpt", tmp_path / "trace"
    torch.save({"state_dict": {"betas": torch.zeros(1), "x": Harmful(trace)}}, path)
    with pytest.raises(CheckpointFormatError, match="more than tensors"):
        read_ldm_checkpoint(path)
    assert not trace.exists()
