"""Frozen text encoders with a cache: a prompt is encoded once."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from prd_lightning.errors import MissingWeightsError
from prd_lightning.text_cache import EmbeddingCache
from prd_lightning.weights import load_network

logger = logging.getLogger(__name__)

MEMORY_BYTES = 256_000_000


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

    Prompts are encoded one by one: matrix products of another size round differently, and an embedding must not depend on the
    company in which its prompt was met first, or a resumed training would differ from an uninterrupted one.

    Args:
        tokenizer: splits prompts; longer ones than its ``model_max_length`` are cut, counted and reported once.
        text_encoder: frozen.
        cache_size: prompts kept in memory (and at most 256 MB), the least recently used one leaves first.
        cache_folder: of encoded prompts that later runs read, see ``text_cache``.
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
        self.disk_cache = None if cache_folder is None else EmbeddingCache(cache_folder)
        self.truncated_count = 0
        self.encoded_count = 0
        self._cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._cache_bytes = 0
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

    @property
    def fingerprint(self) -> str:
        """Of all that an embedding depends on beside its prompt: weights and their precision, vocabulary, length."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode())
            digest.update(repr((self.tokenizer.model_max_length, self.text_encoder.dtype)).encode())
            for name, parameter in self.text_encoder.named_parameters():
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> TextEmbeddings:
        """Embeddings of B prompts; those that are not cached are encoded."""
        found = {prompt: known for prompt in dict.fromkeys(prompts) if (known := self._recall(prompt)) is not None}
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]:
            self._report_long(missing)
            for prompt in missing:
                found[prompt] = self._encode(prompt)
                self._store(prompt, *found[prompt])
        device = self.text_encoder.device
        tokens, pooled = zip(*(found[prompt] for prompt in prompts))
        return TextEmbeddings(torch.stack([row.to(device) for row in tokens]), torch.stack([row.to(device) for row in pooled]))

    def forget(self) -> None:
        """Empties the memory; the disk keeps what it has."""
        self._cache.clear()
        self._cache_bytes = 0

    def _report_long(self, prompts: list[str]) -> None:
        limit = self.tokenizer.model_max_length
        too_long = sum(len(ids) > limit for ids in self.tokenizer(prompts, truncation=False, verbose=False).input_ids)
        if too_long and not self.truncated_count:
            message = "%d of %d prompts are longer than %d tokens and are cut; later ones are only counted"
            logger.warning(message, too_long, len(prompts), limit)
        self.truncated_count += too_long

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor]:
        self.encoded_count += 1
        limit = self.tokenizer.model_max_length
        batch = self.tokenizer([prompt], padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        output = self.text_encoder(batch.input_ids.to(self.text_encoder.device))
        return output.last_hidden_state[0], output.pooler_output[0]

    def _recall(self, prompt: str) -> tuple[Tensor, Tensor] | None:
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
            return self._cache[prompt]
        if self.disk_cache is None or (row := self.disk_cache.get(self._key(prompt))) is None:
            return None
        self._remember(prompt, *row)
        return row

    def _store(self, prompt: str, tokens: Tensor, pooled: Tensor) -> None:
        self._remember(prompt, tokens, pooled)
        if self.disk_cache is not None:
            self.disk_cache.put(self._key(prompt), tokens, pooled)

    def _remember(self, prompt: str, tokens: Tensor, pooled: Tensor) -> None:
        self._cache[prompt] = (tokens, pooled)
        self._cache_bytes += tokens.nbytes + pooled.nbytes
        while self._cache and (len(self._cache) > self.cache_size or self._cache_bytes > MEMORY_BYTES):
            _, row = self._cache.popitem(last=False)
            self._cache_bytes -= sum(part.nbytes for part in row)

    def _key(self, prompt: str) -> bytes:
        return EmbeddingCache.key(self.fingerprint, prompt)


def share_encoders(owners: Iterable[nn.Module], disk_cache: EmbeddingCache | None = None) -> list[PromptEncoder]:
    """Gives modules that hold equal prompt encoders one and the same, so that weights and encodings are in memory once.

    Args:
        owners: modules with a ``prompt_encoder``; others are left alone.
        disk_cache: for all of them.

    Returns:
        The encoders that are left.
    """
    known: dict[str, PromptEncoder] = {}
    for owner in owners:
        if not isinstance(getattr(owner, "prompt_encoder", None), PromptEncoder):
            continue
        owner.prompt_encoder = known.setdefault(owner.prompt_encoder.fingerprint, owner.prompt_encoder)
    for encoder in known.values():
        encoder.disk_cache = disk_cache or encoder.disk_cache
    return list(known.values())
