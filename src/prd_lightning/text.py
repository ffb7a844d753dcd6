"""Frozen text encoders with a cache: a prompt is encoded once."""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from prd_lightning.errors import MissingWeightsError
from prd_lightning.files import atomic_write
from prd_lightning.weights import load_network

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextEmbeddings:
    """Encoded prompts.

    Attributes:
        tokens: [B, L, D] one vector per token.
        pooled: [B, D'] one vector per prompt.
    """

    tokens: Float[Tensor, "batch words width"]
    pooled: Float[Tensor, "batch pooled_width"]


class PromptEncoder(nn.Module):
    """A CLIP text encoder and its tokenizer; results are cached in memory and, if wanted, on disk.

    Args:
        tokenizer: splits prompts; longer ones than its ``model_max_length`` are cut, counted and reported once.
        text_encoder: frozen.
        cache_size: prompts kept in memory, the least recently used one leaves first.
        cache_folder: safetensors files of encoded prompts that later runs read, keyed by weights and prompt.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        cache_size: int = 4096,
        cache_folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.cache_size = cache_size
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self.truncated_count = 0
        self.encoded_count = 0
        self._cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._fingerprint: str | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, **settings: object) -> "PromptEncoder":
        """Loads ``tokenizer/`` and ``text_encoder/`` of a diffusers folder in float32; ``settings`` go to the constructor.

        Raises:
            MissingWeightsError: a sub-folder is missing.
            CheckpointFormatError: the weights are damaged.
        """
        folder = Path(folder)
        for part in ("tokenizer", "text_encoder"):
            if not (folder / part).is_dir():
                raise MissingWeightsError(
                    f"no text encoder in {folder}: the folder {folder / part} does not exist; copy tokenizer/ "
                    "and text_encoder/ of the Stable Diffusion that the model was made from there (docs/real_weights.md)"
                )
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        return cls(tokenizer, load_network(CLIPTextModel, folder, "text_encoder"), **settings)

    @property
    def pooled_width(self) -> int:
        """D' of the pooled embedding."""
        return self.text_encoder.config.hidden_size

    def train(self, mode: bool = True) -> "PromptEncoder":
        """Stays in evaluation mode: a frozen encoder has no dropout, or cached embeddings would differ from fresh ones."""
        return super().train(False)

    @property
    def width(self) -> int:
        """Numbers of a token's vector."""
        return self.text_encoder.config.hidden_size

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> TextEmbeddings:
        """Embeddings of B prompts; those that are not cached are encoded in one batch."""
        found = {prompt: known for prompt in dict.fromkeys(prompts) if (known := self._recall(prompt)) is not None}
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]:
            for prompt, tokens, pooled in zip(missing, *self._encode(missing)):
                found[prompt] = tokens, pooled
                self._store(prompt, tokens, pooled)
        device = self.text_encoder.device
        tokens, pooled = zip(*(found[prompt] for prompt in prompts))
        return TextEmbeddings(torch.stack(tokens).to(device), torch.stack(pooled).to(device))

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        limit = self.tokenizer.model_max_length
        too_long = sum(len(ids) > limit for ids in self.tokenizer(prompts, truncation=False, verbose=False).input_ids)
        if too_long:
            if not self.truncated_count:
                logger.warning(
                    "%d of %d prompts are longer than %d tokens and are cut; later ones are only counted",
                    too_long,
                    len(prompts),
                    limit,
                )
            self.truncated_count += too_long
        self.encoded_count += len(prompts)
        batch = self.tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        output = self.text_encoder(batch.input_ids.to(self.text_encoder.device))
        return output.last_hidden_state, output.pooler_output

    def _recall(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
            return self._cache[prompt]
        if self.cache_folder is None or not (path := self._path(prompt)).is_file():
            return None
        try:
            tensors = load_file(path)
            self._remember(prompt, tensors["tokens"], tensors["pooled"])
        except (SafetensorError, KeyError):
            logger.warning("the cached embedding %s is damaged and is made again", path)
            path.unlink()
            return None
        return self._cache[prompt]

    def _store(self, prompt: str, tokens: Tensor, pooled: Tensor) -> None:
        self._remember(prompt, tokens, pooled)
        if self.cache_folder is not None:
            with atomic_write(self._path(prompt), overwrite=True) as temporary:
                save_file({"tokens": tokens.cpu().contiguous(), "pooled": pooled.cpu().contiguous()}, temporary)

    def _remember(self, prompt: str, tokens: Tensor, pooled: Tensor) -> None:
        self._cache[prompt] = (tokens, pooled)
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)

    def _path(self, prompt: str) -> Path:
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode())
            for parameter in self.text_encoder.parameters():
                digest.update(parameter.detach().float().cpu().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        name = hashlib.sha256("\n".join((self._fingerprint, prompt)).encode()).hexdigest()
        return self.cache_folder / f"{name}.safetensors"
