"""How well generated objects match their prompts, measured against the true objects of the tiny world.

* volumetric IoU of the insides on a regular grid,
* nearest-primitive accuracy: the primitive whose inside overlaps most is the one that the prompt names (single objects),
* colour accuracy: the mean visible colour is nearest to the palette entry that the prompt names (single objects),
* R@1: of all evaluated prompts, the tiny CLIP ranks the right one first for four pictures of the object. The matcher was
  trained on true renders and has never seen a generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from prd_lightning.cameras import Cameras, orbit_cameras
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, SHADE_RANGE, Scene, scene_distance

GRID_RESOLUTION = 48
PICTURE_SIZE = 64


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one prompt; ``shape_correct`` and ``color_correct`` are None for compositions."""

    prompt: str
    iou: float
    shape_correct: bool | None
    color_correct: bool | None
    retrieved: bool


@dataclass(frozen=True)
class TinyWorldScores:
    """Means over prompts, and the rows that they are the means of."""

    iou: float
    shape_accuracy: float
    color_accuracy: float
    retrieval_at_1: float
    rows: list[ObjectScore]

    def summary(self) -> dict[str, float]:
        """The four means by name."""
        return {key: value for key, value in asdict(self).items() if key != "rows"}

    def to_dict(self) -> dict[str, object]:
        """The means and the rows as plain data."""
        return asdict(self)


def grid_points(resolution: int = GRID_RESOLUTION) -> Float[Tensor, "points 3"]:
    """Cell centres of a regular grid over [-1, 1]^3."""
    axis = (torch.arange(resolution) + 0.5) * (2.0 / resolution) - 1.0
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


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


def nearest_color(rgb: Float[Tensor, "*pixels 3"], opacity: Float[Tensor, "*pixels 1"]) -> str | None:
    """The palette entry nearest to the mean colour of the covered pixels, None if no pixel is covered."""
    covered = opacity[..., 0] > 0.9
    if not covered.any():
        return None
    seen = rgb[covered].mean(dim=0)
    palette = rgb.new_tensor(list(COLORS.values())) * (sum(SHADE_RANGE) / 2)
    return list(COLORS)[int((palette - seen).norm(dim=-1).argmin())]


def matcher_cameras() -> Cameras:
    """Four views like those that the matcher was trained on."""
    ones = torch.ones(4)
    return orbit_cameras(15.0 * ones, 45.0 + 90.0 * torch.arange(4), 0.9 * ones, 60.0 * ones, relative=True)


class Matcher:
    """The tiny CLIP as a judge: similarity of pictures and prompts."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        folder = weights_folder("clip")
        self.model = CLIPModel.from_pretrained(folder).float().to(device).eval()
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
    """

    distance: Callable[[Tensor], Tensor]
    rgb: Float[Tensor, "4 height width 3"]
    opacity: Float[Tensor, "4 height width 1"]


@torch.no_grad()
def score_objects(prompts: Sequence[str], objects: Sequence[GeneratedObject], matcher: Matcher) -> TinyWorldScores:
    """Scores ``objects[i]`` against what ``prompts[i]`` describes."""
    points = grid_points()
    text, rows = matcher.embed_prompts(prompts), []
    for index, (prompt, thing) in enumerate(zip(prompts, objects, strict=True)):
        scene = parse(prompt)
        inside = thing.distance(points) < 0
        is_single = len(scene.parts) == 1
        shape, color = scene.concepts[0]
        rows.append(
            ObjectScore(
                prompt=prompt,
                iou=intersection_over_union(inside, scene_distance(scene, points) < 0),
                shape_correct=nearest_primitive(inside, points) == shape if is_single else None,
                color_correct=nearest_color(thing.rgb, thing.opacity) == color if is_single else None,
                retrieved=int((text @ matcher.embed_views(thing.rgb)).argmax()) == index,
            )
        )

    def share(name: str) -> float:
        values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        return mean(map(float, values)) if values else float("nan")

    return TinyWorldScores(share("iou"), share("shape_correct"), share("color_correct"), share("retrieved"), rows)
