"""CLIPScore (Hessel et al., EMNLP 2021): how well a picture fits a text, by a CLIP model in transformers' format.

    score = 100 * 2.5 * max(cos(image embedding, text embedding), 0)

The factor 2.5 is the paper's; the factor 100 is that of tables. Pictures are resized, cropped and normalised as the model's own
``preprocessor_config.json`` says, by PIL, so that nothing needs torchvision.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.weights import SHIPPED_PREFIX, load_network, resolve_folder

CLIP_SCORE_WEIGHT = 2.5
PUBLISHED_CLIP = "openai/clip-vit-base-patch32"
TEXTS_AT_ONCE = 64


def clip_score(
    pictures: Float[Tensor, "*pairs features"], texts: Float[Tensor, "*pairs features"]
) -> Float[Tensor, "*pairs"]:
    """Scores of unit embeddings, pair by pair, between 0 and 250."""
    return 100 * CLIP_SCORE_WEIGHT * (pictures * texts).sum(dim=-1).clamp_min(0)


class ClipJudge:
    """A CLIP model with its tokenizer and its preparation of pictures.

    Args:
        model: in evaluation mode.
        tokenizer: of the same folder.
        processor: PIL-based image processor of the same folder.
    """

    def __init__(self, model: CLIPModel, tokenizer: object, processor: object) -> None:
        self.model, self.tokenizer, self.processor = model.eval().requires_grad_(False), tokenizer, processor

    @classmethod
    def from_pretrained(cls, location: str | Path, device: torch.device | str = "cpu") -> "ClipJudge":
        """Loads a folder, ``tinyworld:clip``, ``weights:NAME``, or a repository of the Hugging Face hub.

        Raises:
            MissingWeightsError: there is no such folder and no such repository (or no network).
            CheckpointFormatError: the folder holds no CLIP in transformers' format, or only a part of one.
        """
        is_hub = ":" not in str(location) and not Path(location).expanduser().exists() and str(location).count("/") == 1
        if is_hub:
            return cls._from_hub(str(location), device)
        folder = resolve_folder(location)
        _check_folder(folder)
        model = load_network(CLIPModel, folder, ".")
        return cls(model.float().to(device), *_tokenizer_and_processor(folder))

    @classmethod
    def _from_hub(cls, repository: str, device: torch.device | str) -> "ClipJudge":
        try:
            model = CLIPModel.from_pretrained(repository, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MissingWeightsError(
                f"the CLIP model {repository!r} is neither a folder nor could it be fetched from the hub ({reason}); "
                f"name a folder with --clip, e.g. {SHIPPED_PREFIX}clip for the tiny world's"
            ) from error
        return cls(model.float().to(device), *_tokenizer_and_processor(repository))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Unit embeddings on the CPU; a text that is too long is cut off."""
        limit, parts = self.model.config.text_config.max_position_embeddings, []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            batch = self.tokenizer(
                list(texts[start : start + TEXTS_AT_ONCE]),
                padding="max_length",
                max_length=limit,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            features = self.model.get_text_features(batch.input_ids, attention_mask=batch.get("attention_mask"))
            parts.append(functional.normalize(features.pooler_output, dim=-1).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "pictures features"]:
        """Unit embeddings on the CPU."""
        values = self.processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt").pixel_values
        features = self.model.get_image_features(pixel_values=values.to(self.device)).pooler_output
        return functional.normalize(features, dim=-1).cpu()


def _check_folder(folder: Path) -> None:
    """Raises CheckpointFormatError, with what it is instead, if a folder holds no whole CLIP in transformers' format."""
    needed = "a CLIP folder in transformers' format has config.json, model.safetensors, a tokenizer and preprocessor_config.json"
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise CheckpointFormatError(f"{folder} has no config.json, it holds {found}; {needed}")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointFormatError(f"{folder / 'config.json'} cannot be read: {error}; {needed}") from error
    if kind != "clip":
        raise CheckpointFormatError(f"{folder} holds a model of type {kind!r}, not a whole CLIP (type 'clip'); {needed}")
    if not (folder / "preprocessor_config.json").is_file():
        raise CheckpointFormatError(f"{folder} has no preprocessor_config.json, so pictures cannot be prepared; {needed}")
    if not list(folder.glob("tokenizer*.json")) and not (folder / "vocab.json").is_file():
        raise CheckpointFormatError(f"{folder} has no tokenizer; {needed}")


def _tokenizer_and_processor(location: str | Path) -> tuple[object, object]:
    try:
        return AutoTokenizer.from_pretrained(location), _processor_class().from_pretrained(location)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointFormatError(f"tokenizer or image processor of {location} cannot be read: {error}") from error


def _processor_class() -> type:
    """The PIL-based CLIP image processor, under the name that the installed transformers gives it."""
    try:
        return importlib.import_module("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    except ModuleNotFoundError:
        return importlib.import_module("transformers.models.clip.image_processing_clip").CLIPImageProcessor
