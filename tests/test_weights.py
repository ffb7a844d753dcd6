"""Where weights are, and that only whole safetensors files are loaded."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError
from prd_lightning.tinyworld import weights_root
from prd_lightning.weights import load_network, resolve_folder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(weights_root() / "stable_diffusion" / "vae", tmp_path / "vae")
    return tmp_path


def test_shipped_and_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert resolve_folder("tinyworld:clip") == weights_root() / "clip"
    assert resolve_folder(tmp_path) == resolve_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own").mkdir()
    assert resolve_folder("~/own") == tmp_path / "own"


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="has no model 'sdxl'; it has stable_diffusion"):
        resolve_folder("tinyworld:sdxl")
    with pytest.raises(MissingWeightsError, match="no weight folder .*nowhere"):
        resolve_folder(tmp_path / "nowhere")
    with pytest.raises(MissingWeightsError, match="no vae in"):
        load_network(AutoencoderKL, tmp_path, "vae")


def test_a_network_comes_in_the_asked_precision_with_the_stored_values(copied: Path):
    stored = load_file(copied / "vae" / "diffusion_pytorch_model.safetensors")
    for precision in (torch.float32, torch.float16):
        network = load_network(AutoencoderKL, copied, "vae", precision)
        for name, value in network.state_dict().items():
            assert value.dtype == precision and torch.equal(value, stored[name].to(precision)), name


def test_truncated_incomplete_and_pickled_weights_are_refused(copied: Path):
    path = copied / "vae" / "diffusion_pytorch_model.safetensors"
    content, tensors = path.read_bytes(), load_file(path)
    path.write_bytes(content[:-10])
    with pytest.raises(CheckpointFormatError, match="cannot be loaded"):
        load_network(AutoencoderKL, copied, "vae")
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(CheckpointFormatError, match=f"lack 1 tensors, e.g. {name}"):
        load_network(AutoencoderKL, copied, "vae")
    path.unlink()
    torch.save(tensors, copied / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointFormatError, match="cannot be loaded"):
        load_network(AutoencoderKL, copied, "vae")
