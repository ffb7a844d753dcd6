"""``--weights triplaneturbo``: the published pipeline end to end from the authors' file, with every layer and few channels."""

import json
from pathlib import Path

import numpy
import pytest
import torch
import trimesh
from reduced import build_base, official_state, save_official, trained_parts

from prd_lightning import cli
from prd_lightning.architecture import Architecture, GeneratorParts
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats.published import find_published, read_generator
from prd_lightning.generator.official import PREFIX
from prd_lightning.mesh import clean_mesh, extract_mesh
from prd_lightning.pipeline import TextToMeshPipeline, find_generator
from prd_lightning.sampling import sample_planes
from prd_lightning.text import PromptEncoder

NAME, BASE, PROMPT = "triplane_turbo_sd_v1.pth", "stable-diffusion-2-1-base", "a red cone"
QUICK = ["--resolution", "14", "--device", "cpu", "--seed", "4"]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight folder as ``prd weights`` leaves it before the conversion."""
    root = tmp_path_factory.mktemp("weights")
    build_base(root / BASE)
    save_official(official_state(root / BASE), root / "originals" / NAME)
    return root


@pytest.fixture
def root(downloaded, monkeypatch) -> Path:
    monkeypatch.setenv("PRD_WEIGHTS", str(downloaded))
    return downloaded


def generate(output: Path, *arguments: str) -> trimesh.Trimesh:
    assert cli.main(["generate", PROMPT, "--weights", "triplaneturbo", "--output", str(output), *QUICK, *arguments]) == 0
    return trimesh.load(output, force="mesh", process=False)


def test_the_authors_file_is_run_as_it_is_and_makes_its_own_mesh(root, tmp_path):
    mesh = generate(tmp_path / "out.ply")
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["weights"].endswith(NAME) and told["steps"] == 4 and told["base"] == f"weights:{BASE}"
    generator, field = trained_parts(root / BASE)
    encoder, schedule = PromptEncoder.from_folder(root / BASE), NoiseSchedule.from_folder(root / BASE / "scheduler")
    planes = sample_planes(GeneratorParts(generator, field, encoder, schedule), [PROMPT], [4], 4)
    expected, _ = clean_mesh(extract_mesh(field, planes.item(0), 14), None, 0.02)
    numpy.testing.assert_array_equal(mesh.faces, expected.faces)
    numpy.testing.assert_allclose(mesh.vertices, expected.vertices, atol=1e-4)


def test_the_converted_file_makes_the_same_mesh(root, tmp_path):
    first = generate(tmp_path / "first.ply")
    assert cli.main(["convert", str(root / "originals" / NAME), "--to", str(root / "triplaneturbo")]) == 0
    assert find_generator("triplaneturbo") == root / "triplaneturbo" / "generator.safetensors"
    second = generate(tmp_path / "second.ply")
    numpy.testing.assert_allclose(second.vertices, first.vertices, atol=1e-5)
    assert json.loads((tmp_path / "second.json").read_text())["base"] == f"weights:{BASE}"


def test_another_base_folder_can_be_named(root, tmp_path, monkeypatch):
    (tmp_path / "mine").symlink_to(root / BASE)
    pipeline = TextToMeshPipeline.from_pretrained(root / "originals" / NAME, "cpu", tmp_path / "mine")
    assert Architecture.from_dict(read_generator(root / "originals" / NAME, tmp_path / "mine")[1]) == pipeline.architecture
    with pytest.raises(MissingWeightsError, match="no weight folder .*nowhere"):
        TextToMeshPipeline.from_pretrained(root / "originals" / NAME, "cpu", tmp_path / "nowhere")


def test_what_is_missing_is_listed_with_the_places_and_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError) as caught:
        find_published()
    message = str(caught.value)
    assert all(str(tmp_path / place) in message for place in ("triplaneturbo/generator.safetensors", f"originals/{NAME}", NAME))
    assert "prd weights triplaneturbo" in message and "PRD_WEIGHTS" in message and "huggingface.co/ZhiyuanthePony" in message
    torch.save({"state_dict": {f"{PREFIX}0.weight": torch.zeros(1)}}, tmp_path / NAME)
    assert cli.main(["generate", PROMPT, "--weights", "triplaneturbo", "--output", str(tmp_path / "out.glb")]) == 2
    assert f"no weight folder {tmp_path / BASE}" in capsys.readouterr().err


def test_a_truncated_file_and_a_base_of_another_family_are_refused(root, tmp_path):
    path = tmp_path / NAME
    path.write_bytes((root / "originals" / NAME).read_bytes()[:-1000])
    with pytest.raises(CheckpointFormatError, match="is truncated"):
        read_generator(path, root / BASE)
    tensors, header = read_generator(root / "originals" / NAME)
    with pytest.raises(CheckpointFormatError, match="reads text of width 64, but this place needs width 1024"):
        Architecture.from_dict(header | {"text_width": 1024}).build()
