"""Generator files: whole under their name or not there, and nothing foreign is read."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prd_lightning.checkpoints import FORMAT, load_generator, save_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError, OutputNotWritableError

ARCHITECTURE = {"base": "tinyworld:stable_diffusion", "rank": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_generator(tmp_path / "generator.safetensors", {"field.a": torch.arange(6.0).view(2, 3).T}, ARCHITECTURE)
    return tmp_path / "generator.safetensors"


def test_round_trip_of_tensors_that_are_neither_contiguous_nor_leaves(file: Path):
    tensors, architecture = load_generator(file)
    assert torch.equal(tensors["field.a"], torch.arange(6.0).view(2, 3).T) and architecture == ARCHITECTURE
    save_generator(file, {"field.a": torch.ones(2, requires_grad=True) * 2}, ARCHITECTURE)
    assert load_generator(file)[0]["field.a"].tolist() == [2, 2]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_failed_write_leaves_the_old_file(file: Path):
    with pytest.raises(Exception, match="shared|memory|storage"):
        shared = torch.zeros(3)
        save_generator(file, {"a": shared, "b": shared}, ARCHITECTURE)
    assert list(load_generator(file)[0]) == ["field.a"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_cannot_be_read_is_refused(file: Path, tmp_path: Path):
    with pytest.raises(MissingWeightsError, match="no generator file"):
        load_generator(tmp_path / "nothing.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointFormatError, match="not a complete safetensors file"):
        load_generator(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointFormatError, match="not a complete safetensors file"):
        load_generator(file)


def test_a_pickle_is_never_opened(tmp_path: Path):
    marker = tmp_path / "executed"

    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (marker,)

    path = tmp_path / "generator.safetensors"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointFormatError, match="never pickles"):
        load_generator(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no generator of this library"),
        ({"format": "pt"}, "no generator of this library .format 'pt'"),
        ({"format": FORMAT}, "does not say which architecture"),
        ({"format": FORMAT, "architecture": "{"}, "does not say which architecture"),
        ({"format": FORMAT, "architecture": json.dumps([1])}, "does not say which architecture"),
    ],
)
def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None, message: str):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointFormatError, match=message):
        load_generator(tmp_path / "x.safetensors")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputNotWritableError, match="cannot write into"):
        save_generator(tmp_path / "taken" / "x.safetensors", {"a": torch.zeros(1)}, ARCHITECTURE)
