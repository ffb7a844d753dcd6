"""CLIP score, R@k, geometry and times of mesh files of any system."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from prd_lightning.errors import ConfigurationError, PRDError, PromptError
from prd_lightning.evaluation.matching import MeshItem
from prd_lightning.evaluation.mesh_files import UP_AXES, FileObject, UpAxis, load_file
from prd_lightning.evaluation.pictures import ViewSettings, object_pictures
from prd_lightning.evaluation.protocol import Protocol
from prd_lightning.evaluation.records import MeshRecord, Progress, record_key
from prd_lightning.evaluation.results import MeshResult, summarize
from prd_lightning.files import atomic_write
from prd_lightning.mesh.health import triangle_health
from prd_lightning.metrics import ClipJudge, clip_score, ranks

logger = logging.getLogger(__name__)
PICTURES = "views"


class ClipEvaluation:
    """Scores mesh files in a folder that holds everything it wrote.

    Args:
        judge: a CLIP model.
        judge_name: where it came from, for the report.
        folder: of the results.
        protocol: see ``Protocol``.
        views: how meshes are looked at.
        up, linear_colors: see ``load_file``.
        fresh: whether earlier measurements are forgotten.
        device: where pictures are made.
    """

    def __init__(
        self,
        judge: ClipJudge,
        judge_name: str,
        folder: Path,
        protocol: Protocol,
        views: ViewSettings,
        up: UpAxis = "auto",
        linear_colors: bool = True,
        fresh: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if up not in UP_AXES:
            raise ConfigurationError(f"unknown up axis {up!r}; known: {', '.join(UP_AXES)}")
        self.judge, self.folder, self.protocol, self.views, self.device = judge, folder, protocol, views, device
        self.up, self.linear_colors = up, linear_colors
        self.settings = {"clip": judge_name, "views": asdict(views), "up": up, "linear_colors": linear_colors}
        self.progress = Progress(folder, fresh)

    def __call__(self, items: Sequence[MeshItem]) -> tuple[dict[str, Any], list[MeshResult]]:
        """Summary and one result for each item.

        Raises:
            PromptError: there are not more prompts than the largest k of R@k.
        """
        check_recall(dict.fromkeys(item.prompt for item in items), self.protocol)
        records = []
        for number, item in enumerate(items, start=1):
            records.append(self._measure(item))
            logger.info("%d of %d: %s", number, len(items), records[-1].error or item.prompt)
        results = score_records(items, records, self.judge, self.protocol)
        return {"settings": self.settings, **summarize(results, self.protocol)}, results

    def _measure(self, item: MeshItem) -> MeshRecord:
        if item.path is None:
            return MeshRecord("", [], None, "there is no mesh of this prompt", None)
        key = record_key(item.path, self.settings)
        known = self.progress.records.get(key)
        if known is not None and (known.picture is None or (self.folder / known.picture).is_file()):
            return known
        try:
            thing = load_file(item.path, self.up, self.linear_colors)
            health = triangle_health(thing.vertices, thing.faces).to_dict()
            pictures = self._pictures(thing)
        except PRDError as error:
            record = MeshRecord(key, [], None, str(error), None)
        else:
            name = f"{PICTURES}/{item.path.stem[:60]}_{key[:8]}.png"
            self._save(pictures, name)
            record = MeshRecord(key, self.judge.embed_pictures(pictures).tolist(), health, None, name)
        self.progress.add(record)
        return record

    def _pictures(self, thing: FileObject) -> list[Image.Image]:
        values = (object_pictures(thing, self.views, self.device) * 255).round().to(torch.uint8)
        return [Image.fromarray(picture.contiguous().numpy()) for picture in values]

    def _save(self, pictures: Sequence[Image.Image], name: str) -> None:
        size = self.views.size
        strip = Image.new("RGB", (size * len(pictures), size))
        for index, picture in enumerate(pictures):
            strip.paste(picture, (index * size, 0))
        with atomic_write(self.folder / name, overwrite=True) as temporary:
            strip.save(temporary, format="PNG")


def check_recall(prompts: Iterable[str], protocol: Protocol) -> None:
    """Raises PromptError unless there are more prompts than the largest k of R@k: of k prompts every one is among the first k."""
    count, largest = len(set(prompts)), max(protocol.recall_at)
    if count <= largest:
        raise PromptError(f"R@{largest} needs more than {largest} different prompts, got {count}; pass a smaller --recall-at")


def score_records(
    items: Sequence[MeshItem], records: Sequence[MeshRecord], judge: ClipJudge, protocol: Protocol
) -> list[MeshResult]:
    """Scores of measured meshes against all prompts; a failure has 0 everywhere and the last rank."""
    kept = [item.prompt for item, record in zip(items, records) if protocol.counts_failures or record.error is None]
    prompts = list(dict.fromkeys(kept))
    texts = judge.embed_texts([protocol.text(prompt) for prompt in prompts]) if prompts else torch.zeros(0, 0)
    number = {prompt: index for index, prompt in enumerate(prompts)}
    results = []
    for item, record in zip(items, records):
        if record.error is not None:
            results.append(MeshResult.failure(item, record.error, len(prompts), protocol.recall_at))
            continue
        pictures = torch.tensor(record.embeddings)
        places = view_ranks(pictures, texts, number[item.prompt], protocol)
        scores = clip_score(pictures, texts[number[item.prompt]].expand_as(pictures))
        results.append(
            MeshResult(
                prompt=item.prompt,
                file=str(item.path),
                error=None,
                clip_score=float(scores.mean()),
                view_scores=scores.tolist(),
                view_ranks=places.tolist(),
                recall={k: float((places <= k).float().mean()) for k in protocol.recall_at},
                seconds=item.seconds,
                health=record.health,
                picture=record.picture,
            )
        )
    return results


def view_ranks(
    pictures: Float[Tensor, "views features"], texts: Float[Tensor, "texts features"], right: int, protocol: Protocol
) -> Tensor:
    """[V] place of the right text among all texts for each picture; the published script ties by the order of the texts."""
    similarity = pictures @ texts.T
    if protocol.name == "published":
        order = similarity.clamp_min(0).argsort(dim=1, descending=True, stable=True)
        return 1 + (order == right).int().argmax(dim=1)
    return ranks(similarity, torch.full((len(pictures),), right))
