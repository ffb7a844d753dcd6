"""Outputs appear whole under their final name, or not at all."""

import os

import pytest

from prd_lightning.errors import OutputExistsError, OutputNotWritableError
from prd_lightning.files import atomic_write, check_output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "mesh.glb"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".glb" and temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole" and names(path.parent) == ["mesh.glb"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyError("interrupted")
    assert names(tmp_path) == []


def test_an_error_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError), atomic_write(path, overwrite=True) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_existing_files_are_kept_unless_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputExistsError, match="--overwrite"), atomic_write(path):
        pytest.fail("the block must not run")
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_full_disk_is_a_typed_error(tmp_path):
    with pytest.raises(OutputNotWritableError, match="a.txt"), atomic_write(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_folders_are_not_files(tmp_path):
    with pytest.raises(OutputNotWritableError, match="folder"):
        check_output(tmp_path)


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError, match="cannot write into"):
        check_output(tmp_path / "file" / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folders(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputNotWritableError, match="cannot write into"):
        check_output(tmp_path / "a.txt")


def test_checking_leaves_nothing_behind(tmp_path):
    assert check_output(tmp_path / "a.txt") == tmp_path / "a.txt"
    assert names(tmp_path) == []
