"""CLIP scores against a direct computation, on a tiny random CLIP in the format of the real ones."""

import json
import shutil

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.metrics import ClipJudge, clip_score
from prd_lightning.tinyworld import weights_folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """Random weights, 32-pixel pictures, another normalisation for each channel."""
    folder = tmp_path_factory.mktemp("clip") / "random"
    config = CLIPConfig.from_pretrained(weights_folder("clip"))
    config.vision_config.image_size = 32
    torch.manual_seed(3)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(weights_folder("clip")).save_pretrained(folder)
    settings = json.loads((weights_folder("clip") / "preprocessor_config.json").read_text())
    settings |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
    settings |= {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.25, 0.27]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def pictures(count: int, size: int = 48) -> list[Image.Image]:
    values = numpy.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=numpy.uint8)
    return [Image.fromarray(value) for value in values]


def test_scores_equal_a_direct_computation(clip_folder):
    """Preparation with PIL and numpy, towers and projections by hand, cosine by numpy."""
    texts, shown = ["a red cone", "a blue cube on a green disk"], pictures(2)
    judge = ClipJudge.from_pretrained(clip_folder)
    images, words_of = judge.embed_pictures(shown), judge.embed_texts(texts)
    scores, cosines = clip_score(images, words_of), (images * words_of).sum(dim=-1)

    model, weights = CLIPModel.from_pretrained(clip_folder).eval(), load_file(clip_folder / "model.safetensors")
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    mean, std = numpy.array([0.48, 0.45, 0.40]), numpy.array([0.26, 0.25, 0.27])
    expected = []
    for text, picture in zip(texts, shown):
        small = numpy.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), numpy.float64) / 255
        pixels = torch.from_numpy(((small - mean) / std).transpose(2, 0, 1)[None]).float()
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            image = model.vision_model(pixels).pooler_output @ weights["visual_projection.weight"].T
            hidden = model.text_model(ids).last_hidden_state[:, -1]  # the last token ends the text
            words = hidden @ weights["text_projection.weight"].T
        image, words = image[0].double().numpy(), words[0].double().numpy()
        cosine = image @ words / numpy.linalg.norm(image) / numpy.linalg.norm(words)
        expected.append(cosine)
    numpy.testing.assert_allclose(cosines.numpy(), expected, rtol=2e-4, atol=1e-5)
    numpy.testing.assert_allclose(scores.numpy(), 250 * numpy.maximum(expected, 0), rtol=2e-4, atol=2e-3)
    assert abs(cosines[0] - cosines[1]) > 1e-3


def test_a_negative_cosine_is_zero_and_equal_directions_are_250():
    unit = torch.eye(3)
    assert clip_score(unit, unit).tolist() == [250, 250, 250] and clip_score(unit, -unit).tolist() == [0, 0, 0]


def test_the_company_of_a_text_or_picture_does_not_matter(clip_folder):
    judge, shown = ClipJudge.from_pretrained(clip_folder), pictures(3)
    long = "a red cone " * 60
    together = judge.embed_texts(["a cone", long])
    torch.testing.assert_close(together[:1], judge.embed_texts(["a cone"]))
    torch.testing.assert_close(judge.embed_pictures(shown)[2:], judge.embed_pictures(shown[2:]))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "siglip"}'), "type 'siglip'"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "cannot be loaded"),
    ],
)
def test_a_folder_of_another_format_is_refused(clip_folder, tmp_path, spoil, message):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    spoil(folder)
    with pytest.raises(CheckpointFormatError, match=message):
        ClipJudge.from_pretrained(folder)


def test_what_is_not_there_is_told(monkeypatch):
    with pytest.raises(MissingWeightsError, match="/nowhere/clip"):
        ClipJudge.from_pretrained("/nowhere/clip")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeightsError, match="neither a folder nor"):
        ClipJudge.from_pretrained("nobody/no-such-clip-model")
