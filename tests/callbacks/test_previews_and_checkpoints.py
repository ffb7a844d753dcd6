"""What a run leaves behind: preview sheets over time, checkpoint folders, meshes of the preview prompts."""

import json
import struct
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
import trimesh
from PIL import Image
from untrained import ARCHITECTURE

from prd_lightning.callbacks import TRAINER_FILE, FolderCheckpointIO, MeshCallback, PreviewCallback, export_meshes
from prd_lightning.cameras import CameraSettings
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator
from prd_lightning.data import ListPrompts, PromptDataModule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError
from prd_lightning.module import PRDModule
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.rendering import MeshRenderer
from prd_lightning.tinyworld.oracle import OracleTeacher

PROMPTS = ["a red cone", "a blue cube"]


def make_module() -> PRDModule:
    torch.manual_seed(0)
    teachers = {"oracle": OracleTeacher(renderers=("mesh",))}
    optimizer = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
    return PRDModule(ARCHITECTURE, {"mesh": MeshRenderer(8, 16, rasterizer="torch")}, teachers, optimizer, unroll_steps=1)


def fit(module: PRDModule, folder: Path, steps: int, checkpoint: Path | None = None) -> lightning.Trainer:
    callbacks = [
        PreviewCallback(PROMPTS, folder, MeshRenderer(8, 16, rasterizer="torch"), every_n_steps=2, views=3),
        MeshCallback(PROMPTS, folder, seed=4, resolution=10),
    ]
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, accumulate_grad_batches=1, callbacks=callbacks, plugins=[FolderCheckpointIO()],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = PromptDataModule(ListPrompts(PROMPTS), batch_size=1, unroll_steps=1, cameras=CameraSettings(views_per_prompt=1))
    trainer.fit(module, data, ckpt_path=checkpoint)
    return trainer


@pytest.fixture(scope="module")
def module() -> PRDModule:
    return make_module()


@pytest.fixture(scope="module")
def run(module: PRDModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    fit(module, folder, steps=3).save_checkpoint(folder / "checkpoints" / "last")
    return folder


def test_sheets_at_the_start_on_the_way_and_at_the_end(run):
    sheets = sorted((run / "previews").iterdir())
    assert [sheet.name for sheet in sheets] == ["step_000000.png", "step_000002.png", "step_000003.png"]
    for sheet in sheets:
        picture = Image.open(sheet)
        assert picture.width == 3 * 128 and picture.height > 4 * 128


def test_a_mesh_of_every_prompt(run):
    paths = sorted((run / "meshes").iterdir())
    assert [path.name for path in paths] == ["a_blue_cube_seed4.glb", "a_red_cone_seed4.glb"]
    for path in paths:
        assert len(trimesh.load(path, force="mesh").faces) > 50
    data = paths[0].read_bytes()
    tree = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    assert tree["asset"]["extras"]["prompt"] == "a blue cube" and tree["asset"]["extras"]["seed"] == 4


def test_the_pipeline_makes_the_same_mesh_from_the_checkpoint(run):
    mesh = TextToMeshPipeline.from_pretrained(run)("a red cone", seed=4, steps=1, resolution=10).meshes[0]
    written = trimesh.load(run / "meshes" / "a_red_cone_seed4.glb", force="mesh", process=False)
    assert len(written.faces) == len(mesh.faces)
    assert abs(written.vertices - mesh.vertices[:, [1, 2, 0]]).max() < 1e-4


def test_a_prompt_without_a_surface_is_a_warning(module, tmp_path, caplog):
    radius = module.field.sphere_radius
    module.field.sphere_radius = -1.0
    try:
        assert export_meshes(module, PROMPTS, tmp_path, resolution=8) == []
    finally:
        module.field.sphere_radius = radius
    assert "no mesh of 'a red cone': the field is empty" in caplog.text and not list(tmp_path.iterdir())


def test_no_prompts():
    with pytest.raises(ConfigurationError, match="preview.prompts is empty"):
        PreviewCallback([], "run", MeshRenderer(8, 16))


# --------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_the_trainable_part_and_resumes(run, module, tmp_path):
    folder = run / "checkpoints" / "last"
    assert sorted(path.name for path in folder.iterdir()) == [GENERATOR_FILE, TRAINER_FILE]
    tensors, header = load_generator(folder / GENERATOR_FILE)
    assert header == module.architecture.to_dict() and tensors.keys() == module.trainable_state_dict().keys()
    resumed = make_module()
    trainer = fit(resumed, tmp_path, steps=3, checkpoint=folder)  # nothing is left to do, so the state is the saved one
    assert trainer.global_step == 3
    for name, value in resumed.trainable_state_dict().items():
        torch.testing.assert_close(value, module.trainable_state_dict()[name], rtol=0, atol=0)


def test_a_checkpoint_replaces_one_of_its_name(tmp_path):
    plugin, path = FolderCheckpointIO(), tmp_path / "last"
    for epoch in (1, 2):
        plugin.save_checkpoint({"state_dict": {"weight": torch.full((2,), float(epoch))}, "epoch": epoch}, path)
    loaded = plugin.load_checkpoint(path)
    assert loaded["epoch"] == 2 and loaded["state_dict"]["weight"].tolist() == [2, 2] and loaded["architecture"] == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last"]
    plugin.remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    plugin, path = FolderCheckpointIO(), tmp_path / "last"
    plugin.save_checkpoint({"state_dict": {"weight": torch.ones(1)}, "epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        plugin.save_checkpoint({"state_dict": {"weight": torch.zeros(1)}, "callback": (number for number in range(3))}, path)
    assert plugin.load_checkpoint(path)["state_dict"]["weight"].item() == 1


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "half"])
def test_damaged_trainer_state(tmp_path, damage):
    plugin, path = FolderCheckpointIO(), tmp_path / "last"
    plugin.save_checkpoint({"state_dict": {"weight": torch.ones(1)}, "epoch": 1}, path)
    data = (path / TRAINER_FILE).read_bytes()
    (path / TRAINER_FILE).write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    with pytest.raises(CheckpointFormatError, match="cannot be read"):
        plugin.load_checkpoint(path)


def test_trainer_state_with_foreign_objects_is_not_unpickled(tmp_path):
    plugin, path = FolderCheckpointIO(), tmp_path / "last"
    plugin.save_checkpoint({"state_dict": {"weight": torch.ones(1)}, "epoch": 1}, path)
    torch.save({"danger": Path("/")}, path / TRAINER_FILE)
    with pytest.raises(CheckpointFormatError, match="cannot be read"):
        plugin.load_checkpoint(path)


def test_missing_checkpoints(tmp_path):
    with pytest.raises(MissingWeightsError, match="there is no checkpoint"):
        FolderCheckpointIO().load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointFormatError, match=f"has no {TRAINER_FILE}"):
        FolderCheckpointIO().load_checkpoint(tmp_path)
