"""The authors' generator file: its real layout in full, both ways, and every wrong file."""

import json
from pathlib import Path

import pytest
import torch
from reduced import CHANNELS, HIDDEN, RANK, TEXT_WIDTH, build_base, official_state, trained_parts

from prd_lightning.architecture import Architecture, trainable_state
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.convert import write
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats import TRIPLANETURBO, find_format
from prd_lightning.formats.triplaneturbo import SD21_UNET
from prd_lightning.generator.official import PREFIX

FIELD_KEY = "geometry.sdf_network.layers.0.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def state(base: Path) -> dict[str, torch.Tensor]:
    return official_state(base)


def meta_file(layout: dict) -> dict[str, torch.Tensor]:
    return {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in layout["entries"]}


def test_the_real_file_is_consumed_in_full_and_needs_no_base_to_be_read(golden):
    layout = golden.settings("official_adapter_layout")
    real = meta_file(layout)
    assert find_format(real, Path("triplane_turbo_sd_v1.pth")) is TRIPLANETURBO
    conversion = TRIPLANETURBO.convert(real)
    tensors = conversion.tensors[GENERATOR_FILE]
    assert sum(value.numel() for value in tensors.values()) == layout["counts"]["trainable_total_excl_bbox"] == 22_684_160
    assert conversion.left_out == {"geometry.bbox": 1} and len(real) == layout["n_keys"]
    architecture = Architecture.from_dict(json.loads(conversion.metadata[GENERATOR_FILE]["architecture"]))
    assert architecture == Architecture("weights:stable-diffusion-2-1-base", latent_size=32, text_width=1024)


def test_the_built_in_configuration_is_the_recorded_one(golden):
    recorded = golden.settings("official_adapter_layout")["unet_config"]
    for key, value in SD21_UNET.items():
        assert (list(value) if isinstance(value, tuple) else value) == recorded[key], key


def test_a_narrow_file_becomes_the_generator_it_was_made_from(base, state):
    conversion = TRIPLANETURBO.convert(state, base)
    header = json.loads(conversion.metadata[GENERATOR_FILE]["architecture"])
    assert (header["rank"], header["plane_channels"], header["hidden"]) == (RANK, CHANNELS, HIDDEN)
    assert (header["latent_size"], header["text_width"], header["base"]) == (8, TEXT_WIDTH, str(base.resolve()))
    generator, field = trained_parts(base)
    expected = trainable_state(generator, field)
    tensors = conversion.tensors[GENERATOR_FILE]
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_the_way_back_gives_the_same_file_without_its_box(base, state, tmp_path, precision):
    given = {key: value.to(precision) for key, value in state.items()}
    write(TRIPLANETURBO.convert(given, base), tmp_path / "ours", {})
    back = TRIPLANETURBO.export(tmp_path / "ours")
    assert back.keys() == given.keys() - {"geometry.bbox"}
    assert all(torch.equal(value, given[key]) for key, value in back.items())


def test_the_base_of_another_family_is_refused_with_both_widths(golden, base):
    with pytest.raises(CheckpointFormatError, match=rf"width 1024 \(Stable Diffusion 2.x\), but width {TEXT_WIDTH} is expected"):
        TRIPLANETURBO.convert(meta_file(golden.settings("official_adapter_layout")), base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(FIELD_KEY), "holds no field"),
        (lambda state: state.pop("geometry.sdf_network.layers.2.weight"), "1 tensors are missing .*sdf_network.layers.2"),
        (lambda state: state.update({"geometry.extra": torch.zeros(1)}), "1 are unknown .geometry.extra"),
        (lambda state: state.pop(f"{PREFIX}130.bias"), "last convolution: .*130.bias is missing"),
        (lambda state: state.update({f"{PREFIX}0.to_q_xy_lora_geo.down.weight": torch.zeros(3, 8)}), "different ranks"),
    ],
)
def test_damaged_files_are_refused_by_name(base, state, change, message):
    damaged = dict(state)
    change(damaged)
    with pytest.raises(CheckpointFormatError, match=message):
        TRIPLANETURBO.convert(damaged, base)


def test_a_base_without_a_part_is_named(state, tmp_path):
    with pytest.raises(MissingWeightsError, match="no unet in the base"):
        TRIPLANETURBO.convert(state, tmp_path)


def test_a_generator_with_shared_pairs_has_no_place_in_the_authors_layout(base, state, tmp_path):
    conversion = TRIPLANETURBO.convert(state, base)
    header = json.loads(conversion.metadata[GENERATOR_FILE]["architecture"]) | {"per_plane": False}
    conversion.metadata[GENERATOR_FILE]["architecture"] = json.dumps(header)
    write(conversion, tmp_path / "shared", {})
    with pytest.raises(CheckpointFormatError, match="per_plane=false"):
        TRIPLANETURBO.export(tmp_path / "shared")
