"""Teachers from folders: what is missing, damaged or of the wrong kind is said so."""

from pathlib import Path

import pytest
import torch

from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError
from prd_lightning.teachers import MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher
from prd_lightning.teachers.loading import load_autoencoder, load_denoiser, original_file


def test_a_folder_becomes_a_teacher():
    teacher = StableDiffusionTeacher.from_folder("tinyworld:stable_diffusion", image_size=32, weight=0.5)
    assert (teacher.image_size, teacher.weight, teacher.guidance_scale) == (32, 0.5, 7.5)
    assert teacher.schedule.num_timesteps == 1000
    assert NormalDepthTeacher.from_folder("tinyworld:richdreamer_nd").unet.config.class_embed_type == "projection"


def test_half_precision_predicts_nearly_the_same():
    noisy, t, tokens = torch.randn(2, 4, 16, 16), torch.tensor([300, 700]), torch.randn(2, 77, 64)
    exact, rough = (
        StableDiffusionTeacher.from_folder("tinyworld:stable_diffusion", precision).predict_noise(noisy, t, tokens, None)
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.03


def test_a_network_of_the_wrong_kind_is_refused():
    with pytest.raises(CheckpointFormatError, match="does not take cameras.*multi-view network"):
        MVDreamTeacher.from_folder("tinyworld:stable_diffusion")
    with pytest.raises(CheckpointFormatError, match="takes cameras.*single-view network"):
        StableDiffusionTeacher.from_folder("tinyworld:richdreamer_nd")


def test_missing_parts_are_named(tmp_path: Path):
    with pytest.raises(MissingWeightsError, match="no weight folder"):
        load_denoiser(tmp_path / "nowhere")
    with pytest.raises(MissingWeightsError, match="no unet in"):
        load_denoiser(tmp_path)
    with pytest.raises(MissingWeightsError, match="no vae in"):
        load_autoencoder("tinyworld:richdreamer_nd")
    with pytest.raises(ConfigurationError, match="unknown precision 'float8'"):
        load_denoiser("tinyworld:stable_diffusion", "float8")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_truncated_weights_are_refused(weights_copy: Path, part: str):
    path = weights_copy / part / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointFormatError, match=f"the weights of .*{part} cannot be loaded"):
        StableDiffusionTeacher.from_folder(weights_copy)


def test_where_original_checkpoints_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path))
    folder, name = tmp_path / "mvdream-sd21-4view", "sd-v2.1-base-4view.pt"
    assert original_file("tinyworld:mvdream") is None and original_file(folder) is None
    for place in (tmp_path, tmp_path / "originals"):
        place.mkdir(exist_ok=True)
        (place / name).touch()
        assert original_file(folder) == original_file("weights:mvdream-sd21-4view") == original_file(place / name) == place / name
    folder.mkdir()
    assert original_file(folder) is None
    (folder / "mine.ckpt").touch()
    assert original_file(folder) == folder / "mine.ckpt"
    (folder / "other.pt").touch()
    assert original_file(folder) is None, "two files: which one is meant?"
    (folder / "other.pt").unlink()
    (folder / "unet").mkdir()
    assert original_file(folder) is None, "a folder in diffusers layout"


def damaged(tmp_path: Path, change: str) -> Path:
    """A file that is no original checkpoint."""
    path = tmp_path / "file.ckpt"
    if change == "truncated":
        torch.save({"state_dict": {"a": torch.zeros(100)}}, path)
        path.write_bytes(path.read_bytes()[:300])
    elif change == "code":
        torch.save({"state_dict": print}, path)
    else:
        torch.save({"state_dict": {"model.weight": torch.zeros(3)}}, path)
    return path


@pytest.mark.parametrize(("change", "message"), [("truncated", "truncated"), ("code", "never run"), ("other", "no known format")])
def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path, change: str, message: str):
    path = damaged(tmp_path, change)
    for location in (path, tmp_path):
        with pytest.raises(CheckpointFormatError, match=message):
            MVDreamTeacher.from_folder(location)


def test_a_truncated_text_encoder_is_refused(weights_copy: Path):
    path = weights_copy / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointFormatError, match="text_encoder"):
        StableDiffusionTeacher.from_folder(weights_copy)


def test_weights_that_do_not_fit_their_configuration_are_refused(weights_copy: Path):
    config = weights_copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 64', '"cross_attention_dim": 32'))
    with pytest.raises(CheckpointFormatError, match="the weights of .*unet cannot be loaded"):
        StableDiffusionTeacher.from_folder(weights_copy)


def test_a_network_that_lacks_tensors_is_refused(weights_copy: Path):
    """Missing tensors would be filled with random numbers."""
    from safetensors.torch import load_file, save_file

    path = weights_copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointFormatError, match=r"the weights of .*unet.*conv_in\.weight"):
        StableDiffusionTeacher.from_folder(weights_copy)


def test_pickled_weights_are_never_read(weights_copy: Path):
    from safetensors.torch import load_file

    path = weights_copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), weights_copy / "unet" / "diffusion_pytorch_model.bin")
    path.unlink()
    with pytest.raises(CheckpointFormatError, match="safetensors"):
        StableDiffusionTeacher.from_folder(weights_copy)
