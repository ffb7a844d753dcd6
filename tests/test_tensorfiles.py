"""Tensors of foreign files: whole, in their precision, and without running what a pickle may hold."""

import hashlib

import pytest
import torch

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.tensorfiles import file_sha256, read_tensors, write_tensors


class Harmful:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
def test_every_kind_and_precision(tmp_path, suffix, precision):
    tensors = {"a": torch.randn(3, 2).to(precision), "b": torch.randn(4).to(precision).T}
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        write_tensors(path, tensors)
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if suffix == ".pth" else tensors, path)
    read = read_tensors(path)
    assert read.keys() == tensors.keys() and all(torch.equal(read[key], value) for key, value in tensors.items())
    assert {value.dtype for value in read.values()} == {precision}
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"file{suffix}"
    torch.save({"a": torch.randn(500)}, path) if suffix == ".pt" else write_tensors(path, {"a": torch.randn(500)})
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointFormatError, match="truncated.*Download it again"):
        read_tensors(path)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "file.pth", tmp_path / "trace"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Harmful(trace)}, path)
    with pytest.raises(CheckpointFormatError, match=r"holds code: reading it would call (_?io|builtins)\.open\b.*never run"):
        read_tensors(path)
    assert not trace.exists()


def test_what_is_no_table_of_tensors_is_refused(tmp_path):
    for content in (torch.zeros(3), {"a": 3}, [1, 2]):
        torch.save(content, tmp_path / "file.pt")
        with pytest.raises(CheckpointFormatError, match="not a table of tensors"):
            read_tensors(tmp_path / "file.pt")
    with pytest.raises(MissingWeightsError, match="no checkpoint .*absent"):
        read_tensors(tmp_path / "absent.pt")
