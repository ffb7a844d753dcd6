"""How well generated objects match their prompts, measured against the true objects of the tiny world.

* volumetric IoU of the insides on a regular grid,
* single objects: the primitive whose inside overlaps most is the one that the prompt names (nearest-primitive accuracy); the
  mean visible colour is nearest to the palette entry that the prompt names (colour accuracy),
* compositions: of all pairs of primitives in both arrangements the right one overlaps most (``composition_shapes``); the mean
  visible colour at each of the two parts is nearest to the one that the prompt names (``composition_colors``); both are
  (``composition_correct``),
* R@1: of all evaluated prompts, the tiny CLIP ranks the right one first for four pictures of the object. The matcher was
  trained on true renders and has never seen a generator.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from prd_lightning.cameras import Cameras, orbit_cameras
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.compositions import grid_points, nearest_color, nearest_composition, part_colors
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.shapes import PRIMITIVES, Scene, scene_distance
from prd_lightning.weights import load_network

PICTURE_SIZE = 64
MEASURES = {
    "iou": "iou",
    "shape_accuracy": "shape_correct",
    "color_accuracy": "color_correct",
    "retrieval_at_1": "retrieved",
    "composition_shapes": "composition_shapes",
    "composition_colors": "composition_colors",
    "composition_correct": "composition_correct",
}
"""What is reported, and the entry of a row that it is the mean of."""
BY_KIND = ("iou", "retrieval_at_1")
"""Reported for single objects and for compositions separately too, with ``single_`` and ``composition_`` in front."""


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one prompt and seed; the entries of the other kind, single object or composition, are None."""

    prompt: str
    iou: float
    retrieved: bool
    shape_correct: bool | None = None
    color_correct: bool | None = None
    composition_shapes: bool | None = None
    composition_colors: bool | None = None
    composition_correct: bool | None = None
    seed: int = 0

    @property
    def is_composition(self) -> bool:
        """Whether the prompt names two parts."""
        return self.composition_correct is not None


@dataclass(frozen=True)
class TinyWorldScores:
    """Means over prompts and seeds, and the rows that they are the means of; a measure that no row has is None.

    Attributes:
        std: of the measures' means over the seeds (n - 1 below); None with one seed.
        seeds: of the first noise.
        per_seed: the measures of each seed.
        rows: one for each prompt and seed.
    """

    iou: float
    shape_accuracy: float | None
    color_accuracy: float | None
    retrieval_at_1: float
    composition_shapes: float | None
    composition_colors: float | None
    composition_correct: float | None
    single_iou: float | None
    single_retrieval_at_1: float | None
    composition_iou: float | None
    composition_retrieval_at_1: float | None
    std: dict[str, float | None] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    per_seed: list[dict[str, float | None]] = field(default_factory=list)
    rows: list[ObjectScore] = field(default_factory=list)

    @classmethod
    def from_rows(cls, rows: Sequence[ObjectScore]) -> "TinyWorldScores":
        """The means of the rows of one or several seeds."""
        seeds = list(dict.fromkeys(row.seed for row in rows))
        per_seed = [_means([row for row in rows if row.seed == seed]) for seed in seeds]
        measures = _means(rows)
        std = {name: _spread([means[name] for means in per_seed]) for name in measures}
        return cls(**measures, std=std, seeds=seeds, per_seed=per_seed, rows=list(rows))

    def summary(self) -> dict[str, float]:
        """The means by name, without those that no row has."""
        values = {key: value for key, value in asdict(self).items() if key not in ("std", "seeds", "per_seed", "rows")}
        return {key: value for key, value in values.items() if value is not None}

    def lines(self) -> list[str]:
        """The means, with their spread over the seeds where there are several, as text."""
        shown = []
        for name, value in self.summary().items():
            spread = self.std.get(name)
            shown.append(f"{name:<26} {value:.3f}" + ("" if spread is None else f" +- {spread:.3f}"))
        return shown

    def to_dict(self) -> dict[str, object]:
        """The means and the rows as plain data."""
        return asdict(self)


def _means(rows: Sequence[ObjectScore]) -> dict[str, float | None]:
    kinds = {kind: [row for row in rows if row.is_composition == (kind == "composition")] for kind in ("single", "composition")}
    measures = {name: _share(rows, entry) for name, entry in MEASURES.items()}
    by_kind = {f"{kind}_{name}": _share(chosen, MEASURES[name]) for kind, chosen in kinds.items() for name in BY_KIND}
    return measures | by_kind


def _share(rows: Sequence[ObjectScore], entry: str) -> float | None:
    values = [float(getattr(row, entry)) for row in rows if getattr(row, entry) is not None]
    return mean(values) if values else None


def _spread(values: Sequence[float | None]) -> float | None:
    return stdev(values) if len(values) > 1 and None not in values else None


def intersection_over_union(first: Bool[Tensor, " points"], second: Bool[Tensor, " points"]) -> float:
    """IoU of two sets of grid cells; two empty sets have IoU 0 (nothing was generated)."""
    union = (first | second).sum().item()
    return (first & second).sum().item() / union if union else 0.0


def nearest_primitive(inside: Bool[Tensor, " points"], points: Float[Tensor, "points 3"]) -> str:
    """The primitive (at the origin, in full size) whose inside overlaps most with ``inside``."""
    overlaps = {
        shape: intersection_over_union(inside, scene_distance(Scene.single(shape, "red"), points) < 0)
        for shape in PRIMITIVES
    }
    return max(overlaps, key=overlaps.get)


def matcher_cameras() -> Cameras:
    """Four views like those that the matcher was trained on."""
    ones = torch.ones(4)
    return orbit_cameras(15.0 * ones, 45.0 + 90.0 * torch.arange(4), 0.9 * ones, 60.0 * ones, relative=True)


class Matcher:
    """The tiny CLIP as a judge: similarity of pictures and prompts."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        folder = weights_folder("clip")
        self.model = load_network(CLIPModel, folder.parent, folder.name).to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.device = device

    @torch.no_grad()
    def embed_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "prompts features"]:
        """Unit text embeddings."""
        batch = self.tokenizer(list(prompts), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return functional.normalize(self.model.get_text_features(batch.input_ids.to(self.device)).pooler_output, dim=-1)

    @torch.no_grad()
    def embed_views(self, rgb: Float[Tensor, "views height width 3"]) -> Float[Tensor, " features"]:
        """Unit mean embedding of the views of one object (rgb in [0, 1] on white)."""
        pictures = functional.interpolate(rgb.permute(0, 3, 1, 2), PICTURE_SIZE, mode="area") * 2 - 1
        features = functional.normalize(self.model.get_image_features(pictures.to(self.device)).pooler_output, dim=-1)
        return functional.normalize(features.mean(dim=0), dim=-1)


@dataclass(frozen=True)
class GeneratedObject:
    """What the evaluation needs to see of one object.

    Attributes:
        distance: [N, 3] points to [N] signed distances.
        rgb: [4, H, W, 3] pictures on white from ``matcher_cameras``.
        opacity: [4, H, W, 1].
        depth: [4, H, W, 1] distance along the ray where something is.
    """

    distance: Callable[[Tensor], Tensor]
    rgb: Float[Tensor, "4 height width 3"]
    opacity: Float[Tensor, "4 height width 1"]
    depth: Float[Tensor, "4 height width 1"]

    def surface(self) -> tuple[Float[Tensor, "pixels 3"], Float[Tensor, "pixels 3"]]:
        """World positions and colours of the covered pixels of all views."""
        covered = self.opacity[..., 0] > 0.9
        origins, directions = matcher_cameras().rays(*self.rgb.shape[1:3])
        return (origins + self.depth * directions)[covered], self.rgb[covered]


@torch.no_grad()
def score_objects(
    prompts: Sequence[str], objects: Iterable[GeneratedObject], matcher: Matcher, seed: int = 0
) -> list[ObjectScore]:
    """Scores the i-th object against what ``prompts[i]`` describes; ``seed`` is noted in the rows."""
    points, text, rows = grid_points(), matcher.embed_prompts(prompts), []
    for index, (prompt, thing) in enumerate(zip(prompts, objects, strict=True)):
        scene, inside = parse(prompt), thing.distance(points) < 0
        rows.append(
            ObjectScore(
                prompt=prompt,
                seed=seed,
                iou=intersection_over_union(inside, scene_distance(scene, points) < 0),
                retrieved=int((text @ matcher.embed_views(thing.rgb)).argmax()) == index,
                **_name_parts(scene, inside, points, thing),
            )
        )
    return rows


def _name_parts(scene: Scene, inside: Tensor, points: Tensor, thing: GeneratedObject) -> dict[str, bool]:
    """Whether shapes and colours are those of ``scene``, by the entries' names."""
    positions, colors = thing.surface()
    if len(scene.parts) == 1:
        shape, color = scene.concepts[0]
        named = bool(inside.any()) and nearest_primitive(inside, points) == shape
        return {"shape_correct": named, "color_correct": nearest_color(colors) == color}
    expected = (*(part.shape for part in scene.parts), scene.arrangement)
    shapes = nearest_composition(inside) == expected
    found = part_colors(scene, positions, colors) if len(positions) else [None, None]
    right = found == [part.color for part in scene.parts]
    return {"composition_shapes": shapes, "composition_colors": right, "composition_correct": shapes and right}
