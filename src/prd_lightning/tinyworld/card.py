"""How good the tiny teachers are: denoising losses against baselines that ignore the prompt or the cameras, and samples.

Each denoiser estimates held-out renders twice more, once with the prompts of other scenes and once with the
cameras of other groups. A teacher that ignores its prompt or its cameras would show the same loss.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from prd_lightning.architecture import Architecture
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError
from prd_lightning.files import atomic_write
from prd_lightning.sampling import initial_noise
from prd_lightning.teachers.multiview import (
    install_joint_view_attention,
    mvdream_camera_condition,
    richdreamer_camera_condition,
)
from prd_lightning.text import PromptEncoder
from prd_lightning.tinyworld.dataset import PICTURE_SIZE, RenderedGroups
from prd_lightning.tinyworld.evaluation import Matcher, matcher_cameras
from prd_lightning.tinyworld.grammar import describe, held_out_pair_prompts
from prd_lightning.tinyworld.models import tokenize
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.rewording import linear_reading
from prd_lightning.tinyworld.shapes import Scene
from prd_lightning.tinyworld.training import VIEWS, encode_pictures
from prd_lightning.weights import load_network

TIMESTEPS = (100, 300, 500, 700, 900)


@dataclass(frozen=True)
class DenoisingLosses:
    """Mean squared error of the clean picture's estimate on held-out scenes, over five noise levels.

    ``right_compositions`` is ``right`` on the scenes with two objects alone (None without any). ``no_prompt`` uses the empty
    prompt, ``other_prompt`` the prompt of another scene, ``other_cameras`` the cameras of another group (None for a teacher
    without cameras). ``prompt_wins`` and ``camera_wins`` are the shares of scenes whose error is smaller with the right prompt
    (cameras) than with the other one on the same noise: 0.5 for a teacher that ignores it.
    """

    right: float
    right_compositions: float | None
    no_prompt: float
    other_prompt: float
    other_cameras: float | None
    prompt_wins: float
    camera_wins: float | None


def _inputs(name: str, groups: RenderedGroups, root: Path) -> tuple[Tensor, Tensor | None]:
    """Clean latents [G, V, 4, h, w] and camera numbers [G, V, 16] of a teacher."""
    index = torch.arange(len(groups.scenes))
    if name == "richdreamer_nd":
        clean = groups.normal_disparity.float().permute(0, 1, 4, 2, 3)
        return clean, richdreamer_camera_condition(groups.cameras(index)).unflatten(0, (-1, VIEWS))
    vae = load_network(AutoencoderKL, root / name, "vae")
    size = 64 if name == "stable_diffusion" else 32
    clean = encode_pictures(vae, groups.rgb.flatten(0, 1), size).unflatten(0, (-1, VIEWS))
    if name == "stable_diffusion":
        return clean, None
    return clean, mvdream_camera_condition(groups.cameras(index)).unflatten(0, (-1, VIEWS))


@torch.no_grad()
def denoising_losses(name: str, groups: RenderedGroups, root: Path, seed: int = 0) -> DenoisingLosses:
    """Losses of the teacher in folder ``root / name`` on (held-out) ``groups``."""
    unet = load_network(UNet2DConditionModel, root / name, "unet").eval()
    text_model = load_network(CLIPTextModel, root / name, "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(root / name / "tokenizer")
    schedule = NoiseSchedule.from_folder(root / name / "scheduler")
    clean, cameras = _inputs(name, groups, root)
    if cameras is not None:
        install_joint_view_attention(unet, VIEWS)
    prompts = [describe(scene) for scene in groups.scenes]
    tokens = text_model(tokenize(tokenizer, prompts)).last_hidden_state
    empty = text_model(tokenize(tokenizer, [""])).last_hidden_state.expand_as(tokens)
    # Half the list further on there is always another scene: pairs come in twos, compositions once.
    shift = len(prompts) // 2

    def losses(tokens: Tensor, cameras: Tensor | None) -> Tensor:
        """[scenes] errors."""
        generator, total = torch.Generator().manual_seed(seed), torch.zeros(len(prompts))
        text = tokens.repeat_interleave(VIEWS, dim=0)
        labels = None if cameras is None else cameras.flatten(0, 1)
        flat = clean.flatten(0, 1)
        for t in TIMESTEPS:
            noise = torch.randn(flat.shape, generator=generator)
            noisy = schedule.add_noise(flat, noise, t)
            predicted = schedule.to_noise(unet(noisy, t, text, class_labels=labels).sample, noisy, t)
            estimate = schedule.predict_clean(noisy, predicted, t)
            total += (estimate - flat).square().unflatten(0, (-1, VIEWS)).flatten(1).mean(dim=1)
        return total / len(TIMESTEPS)

    right, other_prompt = losses(tokens, cameras), losses(tokens.roll(shift, 0), cameras)
    other_cameras = None if cameras is None else losses(tokens, cameras.roll(shift, 0))
    two = torch.tensor([len(scene.parts) == 2 for scene in groups.scenes])
    return DenoisingLosses(
        right=right.mean().item(),
        right_compositions=right[two].mean().item() if two.any() else None,
        no_prompt=losses(empty, cameras).mean().item(),
        other_prompt=other_prompt.mean().item(),
        other_cameras=None if other_cameras is None else other_cameras.mean().item(),
        prompt_wins=(right < other_prompt).float().mean().item(),
        camera_wins=None if other_cameras is None else (right < other_cameras).float().mean().item(),
    )


@torch.no_grad()
def text_signal(root: Path, latent_size: int, noises: int = 4) -> float:
    """How much a generator's first estimates depend on the prompt: variance between prompts over variance between noises.

    The estimates are those of the untrained generator at the last timestep, six planes a scene. Below 1 the noise drowns the
    prompt, and a generator has to learn to hear it before it can learn anything else.
    """
    parts = Architecture(str(root / "stable_diffusion"), latent_size=latent_size).build()
    prompts = held_out_pair_prompts()
    tokens, schedule = parts.prompt_encoder.encode(prompts).tokens, parts.noise_schedule
    t = schedule.num_timesteps - 1
    estimates = []
    for seed in range(noises):
        noisy = initial_noise([seed], parts.generator.latent_shape).repeat(len(prompts), 1, 1, 1)
        predicted = schedule.to_noise(parts.generator.predict(noisy, t, tokens), noisy, t)
        clean = schedule.predict_clean(noisy, predicted, t)
        estimates.append(clean.unflatten(0, (len(prompts), -1)))
    stacked = torch.stack(estimates)
    return (stacked.mean(dim=0).var(dim=0).mean() / stacked.var(dim=0).mean()).item()


@torch.no_grad()
def matcher_retrieval(scenes: Sequence[Scene]) -> float:
    """R@1 of the right prompt among those of all ``scenes``, for true renders: the measure's ceiling."""
    matcher, cameras = Matcher(), matcher_cameras()
    distinct = {describe(scene): scene for scene in scenes}
    text = matcher.embed_prompts(list(distinct))
    pictures = (render_scene(scene, cameras, PICTURE_SIZE).rgb for scene in distinct.values())
    hits = [int((text @ matcher.embed_views(rgb)).argmax()) == index for index, rgb in enumerate(pictures)]
    return sum(hits) / len(hits)


@torch.no_grad()
def reconstruction_error(groups: RenderedGroups, root: Path) -> float:
    """Mean absolute error of the VAE on held-out pictures, values in [0, 1]."""
    vae = load_network(AutoencoderKL, root / "stable_diffusion", "vae")
    pictures = groups.rgb.flatten(0, 1)[::4]
    latents = encode_pictures(vae, pictures, 64, scaled=False)
    restored = torch.cat([vae.decode(chunk).sample for chunk in latents.split(32)])
    return (restored.permute(0, 2, 3, 1) / 2 + 0.5 - pictures.float() / 255).abs().mean().item()


def record_training(root: Path, stage: str, settings: dict) -> None:
    """Notes in ``root / card.json`` how the model of ``stage`` was trained, in place of what stood there about it."""
    card = read_card(root)
    _write(root, card | {"training": card.get("training", {}) | {stage: settings}})


def read_card(root: Path) -> dict:
    """What ``root / card.json`` says; empty where there is none.

    Raises:
        CheckpointFormatError: the file is no JSON object.
    """
    path = root / "card.json"
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointFormatError(f"{path} is not valid JSON ({error}); delete it") from error
    if not isinstance(card, dict):
        raise CheckpointFormatError(f"{path} holds no JSON object; delete it")
    return card


def _write(root: Path, card: dict) -> None:
    with atomic_write(root / "card.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")


def write_card(root: Path, groups: RenderedGroups) -> dict:
    """Measures every model on held-out ``groups`` and writes ``root / card.json``; returns what it wrote.

    What ``record_training`` noted there stays.
    """
    names = ("stable_diffusion", "mvdream", "richdreamer_nd")
    right, explained = linear_reading(PromptEncoder.from_folder(root / "stable_diffusion"))
    card = {
        "training": read_card(root).get("training", {}),
        "held_out": {
            "scenes": len(groups.scenes),
            "denoising": {name: asdict(denoising_losses(name, groups, root)) for name in names},
            "text_reading": {"right": right, "explained": explained},
            "generator_text_signal": {str(size): text_signal(root, size) for size in (4, 8, 16)},
            "clip_retrieval_at_1": matcher_retrieval(groups.scenes),
            "vae_absolute_error": reconstruction_error(groups, root),
        },
        "licence": "Apache-2.0; trained from scratch on procedural renders of this package",
    }
    _write(root, card)
    return card
