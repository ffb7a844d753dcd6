"""Prompts to meshes: where weights are found, what one failing prompt does to the others, seeds, and wrong arguments."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from untrained import ARCHITECTURE, save_untrained

from prd_lightning import pipeline as pipeline_module
from prd_lightning.architecture import trainable_state
from prd_lightning.callbacks import FolderCheckpointIO
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator, save_generator
from prd_lightning.errors import (
    CheckpointFormatError,
    ConfigurationError,
    EmptyMeshError,
    MissingWeightsError,
    NonFiniteError,
    PromptError,
)
from prd_lightning.field import PreparedPlanes
from prd_lightning.mesh import MeshOptions, extract_mesh
from prd_lightning.pipeline import TextToMeshPipeline, find_generator
from prd_lightning.sampling import sample_planes

QUICK = {"resolution": 12, "steps": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> TextToMeshPipeline:
    return TextToMeshPipeline.from_pretrained(weights, device="cpu")


def test_meshes_of_several_prompts(pipeline):
    output = pipeline(["a red cone", "a blue cube", "a green torus"], seeds=[0, 1, 2], batch_size=2, **QUICK)
    assert output.prompts == ["a red cone", "a blue cube", "a green torus"] and output.seeds == [0, 1, 2]
    assert output.errors == [None] * 3 and all(len(mesh.faces) for mesh in output.meshes)
    assert all(seconds > 0 for seconds in output.seconds)


def test_the_mesh_is_that_of_the_unfolded_generator(pipeline, weights):
    parts = ARCHITECTURE.build()
    parts.load(load_generator(weights)[0])
    with torch.no_grad():
        for parameter in trainable_state(parts.generator, parts.field).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    expected = extract_mesh(parts.field, sample_planes(parts, ["a red cone"], [3], 2), 12)
    folded = TextToMeshPipeline(parts, ARCHITECTURE, weights, "")
    mesh = folded("a red cone", seed=3, options=MeshOptions(smallest_component=0), **QUICK).meshes[0]
    numpy.testing.assert_array_equal(mesh.faces, expected.faces)
    numpy.testing.assert_allclose(mesh.vertices, expected.vertices, atol=1e-4)
    other = pipeline("a red cone", seed=3, options=MeshOptions(smallest_component=0), **QUICK).meshes[0]
    assert other.vertices.shape != mesh.vertices.shape or abs(other.vertices - mesh.vertices).max() > 1e-3


def test_a_mesh_depends_on_prompt_and_seed_not_on_its_company(pipeline):
    alone = pipeline("a red cone", seed=5, **QUICK).meshes[0]
    prompts, seeds = ["a blue cube", "a red cone", "a red cone"], [5, 5, 6]
    _, same, other_seed = pipeline(prompts, seeds=seeds, batch_size=3, **QUICK).meshes
    numpy.testing.assert_allclose(same.vertices, alone.vertices, atol=1e-5)
    numpy.testing.assert_allclose(same.colors, alone.colors, atol=1e-5)
    assert other_seed.vertices.shape != alone.vertices.shape or abs(other_seed.vertices - alone.vertices).max() > 1e-4


def test_target_faces(pipeline):
    mesh = pipeline("a red cone", target_faces=100, **QUICK).meshes[0]
    assert 50 < len(mesh.faces) <= 100


@pytest.mark.parametrize(
    ("field_values", "expected"),
    [({"sdf_network.4.weight": float("nan")}, NonFiniteError), ({"texture_network.0.weight": float("nan")}, NonFiniteError)],
)
def test_weights_that_are_not_finite_are_an_error_of_each_prompt(tmp_path, field_values, expected):
    broken = TextToMeshPipeline.from_pretrained(save_untrained(tmp_path, **field_values))
    output = broken(["a red cone", "a blue cube"], **QUICK)
    assert output.meshes == [None, None]
    assert all(isinstance(error, expected) for error in output.errors)


def test_one_bad_prompt_does_not_lose_the_others(weights, monkeypatch, caplog):
    """The text embedding of one prompt is NaN, of another one the object is gone; the third is made."""
    pipeline = TextToMeshPipeline.from_pretrained(weights)
    prompts = ["a red cone", "a blue cube", "a green torus"]
    text = pipeline.parts.prompt_encoder.encode(prompts)
    pipeline.parts.prompt_encoder._store("a red cone", text.tokens[0] * float("nan"), text.pooled[0])
    first = pipeline(prompts, batch_size=3, **QUICK)
    assert [mesh is None for mesh in first.meshes] == [True, False, False]
    assert isinstance(first.errors[0], NonFiniteError) and "no mesh of 'a red cone' (seed 0)" in caplog.text

    pipeline.parts.field.sphere_radius = -1.0
    second = pipeline(prompts[1:], **QUICK)
    assert second.meshes == [None, None] and all(isinstance(error, EmptyMeshError) for error in second.errors)


def test_meshes_come_one_at_a_time(pipeline):
    stream = pipeline.stream(["a red cone", "a blue cube"], [0, 0], MeshOptions(resolution=12), batch_size=1, steps=1)
    before = pipeline.parts.prompt_encoder.encoded_count
    assert next(stream).prompt == "a red cone"
    assert pipeline.parts.prompt_encoder.encoded_count <= before + 1
    assert next(stream).prompt == "a blue cube" and next(stream, None) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompts": "  "}, PromptError, "blank"),
        ({"prompts": ["a red cone", ""]}, PromptError, "prompt 2 of 2"),
        ({"prompts": []}, PromptError, "no prompt"),
        ({"seed": -1}, ConfigurationError, "got -1"),
        ({"seeds": [0, 1]}, ConfigurationError, "1 prompts need as many seeds, got 2"),
        ({"steps": 0}, ConfigurationError, "steps"),
        ({"steps": 1001}, ConfigurationError, "steps"),
        ({"resolution": 4}, ConfigurationError, "got 4"),
        ({"target_faces": 2}, ConfigurationError, "target_faces"),
        ({"batch_size": 0}, ConfigurationError, "batch_size"),
    ],
)
def test_wrong_arguments_are_found_before_any_work(pipeline, arguments, error, message):
    encoded = pipeline.parts.prompt_encoder.encoded_count
    with pytest.raises(error, match=message):
        pipeline(**{"prompts": "a purple wedge"} | arguments)
    assert pipeline.parts.prompt_encoder.encoded_count == encoded


# ------------------------------------------------------------------------------------------------------- weights


def test_every_kind_of_location(weights, tmp_path):
    tensors, header = load_generator(weights)
    run = tmp_path / "run"
    checkpoint = {"state_dict": tensors, "architecture": header, "epoch": 1}
    FolderCheckpointIO().save_checkpoint(checkpoint, run / "checkpoints" / "last")
    expected = run / "checkpoints" / "last" / GENERATOR_FILE
    for location in (run, str(run), run / "checkpoints", run / "checkpoints" / "last", expected):
        assert find_generator(location).resolve() == expected.resolve()
    pipeline = TextToMeshPipeline.from_pretrained(run)
    assert pipeline.architecture == ARCHITECTURE
    assert pipeline.weights_hash == hashlib.sha256(expected.read_bytes()).hexdigest()


def test_the_shipped_generator(tmp_path, monkeypatch, weights):
    monkeypatch.setattr(pipeline_module, "weights_root", lambda: tmp_path)
    for name in ("tiny", "tinyworld:generator"):
        with pytest.raises(MissingWeightsError, match="train one with"):
            find_generator(name)
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / GENERATOR_FILE).write_bytes(weights.read_bytes())
    assert find_generator("tiny") == tmp_path / "generator" / GENERATOR_FILE


def test_locations_without_a_generator(tmp_path):
    with pytest.raises(MissingWeightsError, match="there is no file or folder"):
        TextToMeshPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingWeightsError, match="checkpoints/last/generator.safetensors"):
        TextToMeshPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_weights(weights, tmp_path, share):
    data = weights.read_bytes()
    path = tmp_path / GENERATOR_FILE
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointFormatError, match="not a complete safetensors file"):
        TextToMeshPipeline.from_pretrained(path)


def test_files_that_are_no_generators(weights, tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickle.ckpt")
    with pytest.raises(CheckpointFormatError, match="no generator of this library"):
        TextToMeshPipeline.from_pretrained(tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointFormatError, match="no generator of this library .*such as weight"):
        TextToMeshPipeline.from_pretrained(tmp_path / "pickle.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3}, "has shape"),
        ({"plane_channels": 32}, "has shape"),
        ({"per_plane": False}, "has shape"),
        ({"surprise": 1}, "unknown entries"),
    ],
)
def test_weights_of_another_architecture(weights, tmp_path, change, message):
    tensors, header = load_generator(weights)
    save_generator(tmp_path / GENERATOR_FILE, tensors, header | change)
    with pytest.raises(CheckpointFormatError, match=message):
        TextToMeshPipeline.from_pretrained(tmp_path)


def test_missing_and_additional_tensors_are_refused(weights, tmp_path):
    tensors, header = load_generator(weights)
    fewer = dict(list(tensors.items())[1:])
    for index, changed in enumerate((fewer, tensors | {"field.x": torch.ones(1)})):
        save_generator(tmp_path / f"{index}.safetensors", changed, header)
        with pytest.raises(CheckpointFormatError, match="lacks 1 tensors|has 1 tensors unknown"):
            TextToMeshPipeline.from_pretrained(tmp_path / f"{index}.safetensors")


def test_a_base_model_that_is_not_there(weights, tmp_path):
    tensors, _ = load_generator(weights)
    save_generator(tmp_path / GENERATOR_FILE, tensors, replace(ARCHITECTURE, base=str(tmp_path / "sd")).to_dict())
    with pytest.raises(MissingWeightsError, match="there is no weight folder"):
        TextToMeshPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_unknown_devices(weights, device):
    with pytest.raises(ConfigurationError, match="there is no device"):
        TextToMeshPipeline.from_pretrained(weights, device=device)


def test_moving_and_folding(pipeline):
    assert pipeline.to("cpu") is pipeline and pipeline.device.type == "cpu"
    assert not any(parameter.requires_grad for parameter in pipeline.parts.generator.parameters())
    assert all(layer.folded for _, layer in pipeline.parts.generator.adapted_layers())
    assert isinstance(sample_planes(pipeline.parts, ["a red cone"], [0], 1), PreparedPlanes)
