"""Meshes and places that cannot be written: what is said, and that nothing is lost or left behind."""

import dataclasses
import errno
import os
from pathlib import Path

import fields
import numpy
import pytest
from reading import read
from small_disk import largest_file

from prd_lightning.errors import (
    ConfigurationError,
    NonFiniteError,
    NotWatertightError,
    OutputExistsError,
    OutputNotWritableError,
)
from prd_lightning.files import atomic_write_all
from prd_lightning.mesh import FORMATS, clean_mesh, save_mesh


@pytest.mark.parametrize("name", ["mesh.fbx", "mesh", "mesh.glb.zip"])
def test_unknown_suffix_names_the_four(wedge, tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"\.glb, \.obj, \.ply, \.stl"):
        save_mesh(wedge, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_existing_files_stay_unless_overwriting_is_asked_for(wedge, tmp_path, suffix):
    path = tmp_path / f"mesh.{suffix}"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        save_mesh(wedge, path)
    assert path.read_text() == "mine"
    save_mesh(wedge, path, overwrite=True)
    assert len(read(path).faces) == len(wedge.faces)
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_a_folder_that_cannot_be_made(wedge, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError, match="cannot write into"):
        save_mesh(wedge, tmp_path / "file" / "mesh.glb")


def test_metadata_that_is_not_json_leaves_nothing_behind(wedge, tmp_path):
    with pytest.raises(TypeError):
        save_mesh(wedge, tmp_path / "mesh.glb", metadata={"seed": object()})
    assert not list(tmp_path.iterdir())


def test_an_open_surface_is_not_printed(tmp_path):
    mesh = fields.to_mesh(fields.without_faces(fields.ball(), 2))
    with pytest.raises(NotWatertightError, match="6 of its 480 edges have one face.*--fill-holes"):
        save_mesh(mesh, tmp_path / "mesh.stl")
    assert not list(tmp_path.iterdir())
    mended, _ = clean_mesh(mesh, fill_holes=10)
    assert read(save_mesh(mended, tmp_path / "mesh.stl")).volume > 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_vertices_that_are_not_finite_are_not_written(wedge, tmp_path, suffix):
    vertices = wedge.vertices.copy()
    vertices[0] = numpy.inf
    with pytest.raises(NonFiniteError, match="1 of 3786 vertices"):
        save_mesh(dataclasses.replace(wedge, vertices=vertices), tmp_path / f"mesh.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_one_triangle_in_every_format(tmp_path, suffix):
    assert len(read(save_mesh(fields.triangle(), tmp_path / f"mesh.{suffix}")).faces) == 1


def test_one_triangle_is_not_printed(tmp_path):
    with pytest.raises(NotWatertightError, match="3 of its 3 edges"):
        save_mesh(fields.triangle(), tmp_path / "mesh.stl")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_nothing_behind(wedge, textured, tmp_path, suffix):
    for mesh in (wedge, textured):
        with largest_file(5000), pytest.raises(OutputNotWritableError, match="cannot write .*mesh"):
            save_mesh(mesh, tmp_path / f"mesh.{suffix}")
        assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_all_files_of_an_older_obj(wedge, textured, tmp_path):
    path = save_mesh(textured, tmp_path / "mesh.obj")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with largest_file(5000), pytest.raises(OutputNotWritableError):
        save_mesh(textured, path, overwrite=True, metadata={"seed": 3})
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_one_file_in_the_way_keeps_an_obj_from_being_written(textured, tmp_path):
    (tmp_path / "mesh_color.png").write_text("mine")
    with pytest.raises(OutputExistsError, match="mesh_color.png exists"):
        save_mesh(textured, tmp_path / "mesh.obj")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_files_that_belong_together_get_their_names_together(tmp_path, monkeypatch):
    places = [tmp_path / "first", tmp_path / "second"]
    real = os.replace

    def fails_on_second(source, target):
        if Path(target).name == "second":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_on_second)
    with pytest.raises(OutputNotWritableError, match="No space left"), atomic_write_all(places) as temporaries:
        for temporary in temporaries.values():
            temporary.write_text("complete")
    assert not list(tmp_path.iterdir())
