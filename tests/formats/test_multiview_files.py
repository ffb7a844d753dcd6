"""MVDream's and RichDreamer's files: real layouts in full, what is borrowed, what is left out, and every wrong file."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from reduced import MULTIVIEW_UNET, NARROW_VAE, NORMAL_DEPTH, build_base, official_state, save_official

from prd_lightning.convert import write
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats import FILE_FORMATS, MVDREAM, RICHDREAMER, find_format
from prd_lightning.formats.diffusers_folder import NETWORK_FILE
from prd_lightning.teachers import MVDreamTeacher, NormalDepthTeacher
from prd_lightning.teachers.conversion_back import unet_state_to_ldm, vae_state_to_ldm

NARROW_MVDREAM, NARROW_RICHDREAMER = (
    replace(MVDREAM, unet=MULTIVIEW_UNET, vae=NARROW_VAE),
    replace(RICHDREAMER, unet=NORMAL_DEPTH),
)
SCHEDULE_LENGTH = 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "stable-diffusion-2-1-base")


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    """A narrow ``sd-v2.1-base-4view.pt``."""
    torch.manual_seed(3)
    state = unet_state_to_ldm(UNet2DConditionModel(**MULTIVIEW_UNET).state_dict())
    state |= vae_state_to_ldm(AutoencoderKL(**NARROW_VAE).state_dict())
    schedule = NoiseSchedule.from_folder(Path(MVDREAM_SCHEDULER))
    return state | {"cond_stage_model.model.logit_scale": torch.ones(()), "alphas_cumprod": schedule.alphas_cumprod}


MVDREAM_SCHEDULER = (
    Path(__file__).resolve().parents[2] / "src" / "prd_lightning" / "tinyworld" / "weights" / "mvdream" / "scheduler"
)


def meta_file(layout: dict) -> dict[str, torch.Tensor]:
    """Every tensor of a real file, without its values."""
    shapes = {**layout["unet"], **layout.get("first_stage", {}), **layout["schedule_buffers"]}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(("chosen", "name"), [(MVDREAM, "mvdream_sd21_4view_layout"), (RICHDREAMER, "nd_mv_layout")])
def test_the_real_file_is_consumed_in_full_and_fills_the_network_in_full(golden, base, chosen, name):
    layout = golden.settings(name)
    state = meta_file(layout)
    assert find_format(state, Path(name)) is chosen
    conversion = chosen.convert(state, base)
    unet = conversion.tensors[f"unet/{NETWORK_FILE}"]
    assert {layout["ldm_to_diffusers"][key]: list(state[key].shape) for key in layout["unet"]} == {
        key: list(value.shape) for key, value in unet.items()
    }
    assert (len(unet), sum(value.numel() for value in unet.values())) == (layout["n_keys"], layout["n_params"])
    consumed = sum(map(len, conversion.tensors.values())) + sum(conversion.left_out.values())
    assert consumed == len(state) and conversion.left_out == {"noise schedule": len(layout["schedule_buffers"])}
    assert set(conversion.folders) == {"tokenizer", "text_encoder"}


def test_a_converted_mvdream_is_a_teacher_and_comes_back_unchanged(original, base, tmp_path):
    conversion = NARROW_MVDREAM.convert(original, base)
    assert conversion.left_out == {"cond_stage_model.": 1, "noise schedule": 1}
    write(conversion, tmp_path / "mvdream", {})
    teacher = MVDreamTeacher.from_folder(tmp_path / "mvdream", text_width=64)
    assert teacher.schedule.num_timesteps == SCHEDULE_LENGTH
    assert torch.equal(teacher.unet.conv_in.weight, original["model.diffusion_model.input_blocks.0.0.weight"])
    back = NARROW_MVDREAM.export(tmp_path / "mvdream")
    assert back.keys() == {key for key in original if key.startswith(("model.", "first_stage_model."))}
    assert all(torch.equal(value, original[key]) for key, value in back.items())


@pytest.mark.parametrize("beside", [True, False], ids=["text encoder beside the file", "downloaded base"])
@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "file"])
def test_the_original_file_is_a_teacher_as_it_is(original, base, tmp_path, monkeypatch, as_folder, beside):
    """What a config may name: the published file, or a folder with it; converted on load, with the same predictions."""
    monkeypatch.setitem(FILE_FORMATS, "mvdream", NARROW_MVDREAM)
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "mine").mkdir()
    torch.save({"state_dict": original}, tmp_path / "mine" / "sd-v2.1-base-4view.pt")
    place = tmp_path / "mine" if beside else tmp_path / "weights" / "stable-diffusion-2-1-base"
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(base / part, place / part)
    location = tmp_path / "mine" if as_folder else tmp_path / "mine" / "sd-v2.1-base-4view.pt"
    teacher = MVDreamTeacher.from_folder(location, text_width=64)
    write(NARROW_MVDREAM.convert(original, base), tmp_path / "converted", {})
    expected = MVDreamTeacher.from_folder(tmp_path / "converted", text_width=64)
    noisy, t, tokens, cameras = torch.randn(4, 4, 8, 8), torch.full((4,), 300), torch.randn(4, 77, 64), torch.randn(4, 16)
    assert torch.equal(*(each.predict_noise(noisy, t, tokens, cameras) for each in (teacher, expected)))
    assert torch.equal(*(each.vae.decoder.conv_in.weight for each in (teacher, expected)))
    assert torch.equal(teacher.schedule.alphas_cumprod, expected.schedule.alphas_cumprod)
    assert MVDreamTeacher.from_folder(location, "bfloat16").unet.dtype == torch.bfloat16
    with pytest.raises(CheckpointFormatError, match=r"width 64.*needs width 768 \(Stable Diffusion 1.x\)"):
        NormalDepthTeacher.from_folder(location, text_width=768)
    shutil.rmtree(place / "text_encoder")
    with pytest.raises(MissingWeightsError, match="the text encoder is not in the file"):
        MVDreamTeacher.from_folder(location)


def test_the_published_generator_is_no_teacher(base, tmp_path):
    path = save_official(official_state(base), tmp_path / "triplane_turbo_sd_v1.pth")
    with pytest.raises(CheckpointFormatError, match="which is no teacher"):
        MVDreamTeacher.from_folder(path)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_loads(base, tmp_path, precision):
    state = {
        key: value.to(precision) for key, value in unet_state_to_ldm(UNet2DConditionModel(**NORMAL_DEPTH).state_dict()).items()
    }
    write(NARROW_RICHDREAMER.convert(state, base), tmp_path / "nd", {})
    teacher = NormalDepthTeacher.from_folder(tmp_path / "nd")
    assert teacher.unet.dtype == torch.float32
    assert torch.equal(teacher.unet.conv_in.weight, state["model.diffusion_model.input_blocks.0.0.weight"].float())
    assert next(iter(NARROW_RICHDREAMER.export(tmp_path / "nd").values())).dtype == precision


def test_an_autoencoder_that_the_file_lacks_is_borrowed_and_one_that_is_not_needed_is_left_out(original, base):
    bare = {key: value for key, value in original.items() if not key.startswith("first_stage_model.")}
    assert set(NARROW_MVDREAM.convert(bare, base).folders) == {"tokenizer", "text_encoder", "vae"}
    left_out = NARROW_RICHDREAMER.convert(as_normal_depth(original), base).left_out
    assert left_out["first_stage_model."] == sum(key.startswith("first_stage_model.") for key in original)


def as_normal_depth(original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    others = {key: value for key, value in original.items() if not key.startswith("model.")}
    return unet_state_to_ldm(UNet2DConditionModel(**NORMAL_DEPTH).state_dict()) | others


def test_the_text_encoder_must_come_from_somewhere(original, tmp_path):
    with pytest.raises(MissingWeightsError, match="the text encoder is not in the file.*--base"):
        NARROW_MVDREAM.convert(original)
    with pytest.raises(MissingWeightsError, match="tokenizer does not exist"):
        NARROW_MVDREAM.convert(original, tmp_path)


def test_a_file_for_another_slot_is_refused_with_both_widths(golden, base):
    """An SD 1.5 network where SD 2.1 is expected, and the other way round."""
    with pytest.raises(
        CheckpointFormatError, match=r"width 768 \(Stable Diffusion 1.x\), but width 1024 \(Stable Diffusion 2.x\)"
    ):
        MVDREAM.convert(meta_file(golden.settings("nd_mv_layout")), base)
    with pytest.raises(CheckpointFormatError, match=r"width 1024 .*but width 768"):
        RICHDREAMER.convert(meta_file(golden.settings("mvdream_sd21_4view_layout")), base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.diffusion_model.out.2.bias"), r"1 tensors are missing \(conv_out.bias\)"),
        (
            lambda state: state.update({"model.diffusion_model.extra.weight": torch.zeros(1)}),
            "unknown, e.g. model.diffusion_model.extra",
        ),
        (lambda state: state.update({"optimizer.step": torch.zeros(1)}), "optimizer.step"),
        (
            lambda state: state.update({"model.diffusion_model.out.2.bias": torch.zeros(5)}),
            r"conv_out.bias has shape \[5\].*\[4\]",
        ),
        (lambda state: state.pop("model.diffusion_model.camera_embed.0.weight"), "no camera embedding"),
        (lambda state: state.pop("first_stage_model.quant_conv.bias"), r"the autoencoder.*missing \(quant_conv.bias\)"),
        (lambda state: state.update({"alphas_cumprod": torch.linspace(1, 0, SCHEDULE_LENGTH)}), "another noise schedule"),
    ],
)
def test_damaged_and_foreign_files_are_refused_by_name(original, base, change, message):
    state = dict(original)
    change(state)
    with pytest.raises(CheckpointFormatError, match=message):
        NARROW_MVDREAM.convert(state, base)


def test_a_file_without_a_unet_is_refused(base):
    with pytest.raises(CheckpointFormatError, match="has no UNet"):
        NARROW_MVDREAM.convert({"first_stage_model.quant_conv.bias": torch.zeros(8)}, base)
