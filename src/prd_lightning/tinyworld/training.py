"""Training of the tiny models on renders of the training scenes, in the order in which they depend on one another.

``clip``, ``text`` (its text tower, which conditions the others) and ``vae`` come first; ``stable_diffusion`` learns single views,
``mvdream`` four views with cameras (starting from ``stable_diffusion``, as the real one did), ``richdreamer_nd`` normals and
disparity.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from prd_lightning.cameras import Cameras, horizontal_view_name
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.teachers.multiview import (
    install_joint_view_attention,
    mvdream_camera_condition,
    richdreamer_camera_condition,
)
from prd_lightning.tinyworld import dataset, models
from prd_lightning.tinyworld.grammar import describe
from prd_lightning.tinyworld.loops import Stage, train
from prd_lightning.tinyworld.rewording import build_reader, random_prompts, rewording_loss
from prd_lightning.tinyworld.shapes import Scene
from prd_lightning.weights import load_network

logger = logging.getLogger(__name__)

NULL_PROMPT_SHARE = 0.12
VIEWS = 4

DenoiserBatch = tuple[Tensor, list[str], Tensor | None]
"""Clean samples, one prompt for each one or each group of them, and camera numbers."""
BatchMaker = Callable[[Tensor, random.Random], DenoiserBatch]
"""From the numbers of samples (or groups) and a source of random choices."""


@dataclass(frozen=True)
class TinyWorldPlan:
    """Sizes of the data and lengths of the trainings, from nothing in one go; the card tells the shipped models' history."""

    rings_per_pair: int = 20
    compositions: int = 8000
    clip: Stage = Stage(1500, 128, 1e-3)
    text: Stage = Stage(1500, 64, 2e-3)
    vae: Stage = Stage(1500, 12, 2e-3)
    stable_diffusion: Stage = Stage(3500, 64, 1.2e-3, matrix_learning_rate=0.02)
    mvdream: Stage = Stage(2500, 24, 1e-3, matrix_learning_rate=0.02)
    richdreamer_nd: Stage = Stage(3200, 14, 1.2e-3, matrix_learning_rate=0.02)
    seed: int = 0


@dataclass
class TinyWorldTrainer:
    """Trains the models one by one and writes them as diffusers and transformers folders.

    Attributes:
        output: folder of the finished models.
        cache: folder of renders and training states; an interrupted training continues from there.
        plan: what is trained for how long.
        device: where to train.
        precision: of the networks' arithmetic; weights and losses are 32-bit. On processors with matrix units for bfloat16 (AMX)
            ``bfloat16`` takes little more than half of the time.
        start_from: folder of finished models; the denoisers go on from theirs, with a learning rate that begins anew.
    """

    output: Path
    cache: Path
    plan: TinyWorldPlan = field(default_factory=TinyWorldPlan)
    device: torch.device = torch.device("cpu")
    precision: Literal["float32", "bfloat16"] = "float32"
    start_from: Path | None = None

    def groups(self) -> dataset.RenderedGroups:
        """The training renders."""
        scenes = dataset.training_scenes(self.plan.rings_per_pair, self.plan.compositions, self.plan.seed)
        return dataset.render_groups(scenes, self.cache / "training_renders.safetensors", self.plan.seed)

    # ------------------------------------------------------------------------------------------------ clip and vae
    def train_clip(self) -> None:
        """Contrastive training; the same objects with swapped places or colours are extra negatives."""
        groups, tokenizer = self.groups(), models.build_tokenizer()
        torch.manual_seed(self.plan.seed)
        clip = models.build_clip(tokenizer).to(self.device)
        pictures = groups.rgb.flatten(0, 1)

        def loss_of_batch(generator: torch.Generator) -> Tensor:
            """Cross-entropy of pictures and texts, both ways."""
            index = torch.randint(len(pictures), (self.plan.clip.batch_size,), generator=generator)
            draw = random.Random(int(index.sum()))
            scenes = [groups.scenes[i // VIEWS] for i in index.tolist()]
            described = scenes + [_confused(scene, draw) for scene in scenes]
            tokens = tokenizer([describe(scene, draw) for scene in described], padding=True, return_tensors="pt")
            noise = 0.03 * torch.randn(len(index), 3, 64, 64, generator=generator)
            images = (to_signed(pictures[index]) + noise).to(self.device)
            text = functional.normalize(clip.get_text_features(tokens.input_ids.to(self.device)).pooler_output, dim=-1)
            image = functional.normalize(clip.get_image_features(images).pooler_output, dim=-1)
            logits = clip.logit_scale.exp().clamp_max(100) * image @ text.T
            # The same scene may occur twice in a batch: spread the target over all its copies.
            number = {scene: position for position, scene in enumerate(described)}
            numbers = torch.tensor([number[scene] for scene in described], device=self.device)
            same = (numbers[: len(index), None] == numbers).float()
            to_text = functional.cross_entropy(logits, same / same.sum(dim=1, keepdim=True))
            same = same[:, : len(index)]
            to_image = functional.cross_entropy(logits[:, : len(index)].T, same / same.sum(dim=1, keepdim=True))
            return 0.5 * (to_text + to_image)

        trained = train("clip", clip, loss_of_batch, self.plan.clip, self.cache / "states")
        trained.half().save_pretrained(self.output / "clip")
        tokenizer.save_pretrained(self.output / "clip")

    def train_text(self) -> None:
        """The text tower of the CLIP goes on by itself and learns to reword; it conditions all denoisers."""
        tokenizer = CLIPTokenizer.from_pretrained(self.output / "clip")
        torch.manual_seed(self.plan.seed)
        both = nn.ModuleDict({"tower": load_network(CLIPModel, self.output, "clip").text_model, "reader": build_reader()})

        def loss_of_batch(generator: torch.Generator) -> Tensor:
            """Cross-entropy of plain words and places."""
            draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
            scenes, prompts = random_prompts(draw, self.plan.text.batch_size)
            return rewording_loss(both["tower"], tokenizer, both["reader"], scenes, prompts)

        trained = train("text", both.to(self.device), loss_of_batch, self.plan.text, self.cache / "states")
        trained["tower"].half().save_pretrained(self.output / "text" / "text_encoder")
        tokenizer.save_pretrained(self.output / "text" / "tokenizer")

    def train_vae(self) -> None:
        """Reconstruction of whole pictures (64 pixels) and of the multi-view teacher's smaller ones (32 pixels)."""
        groups = self.groups()
        torch.manual_seed(self.plan.seed)
        vae = models.build_vae().to(self.device)
        pictures = groups.rgb.flatten(0, 1)

        def reconstruction(images: Tensor, generator: torch.Generator) -> Tensor:
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(images)
            restored = vae.decode(posterior.mean + posterior.std * noise).sample
            return functional.l1_loss(restored, images) + functional.mse_loss(restored, images) + 1e-5 * posterior.kl().mean()

        def loss_of_batch(generator: torch.Generator) -> Tensor:
            index = torch.randint(len(pictures), (2 * self.plan.vae.batch_size,), generator=generator)
            images = to_signed(pictures[index]).to(self.device)
            large, small = images.chunk(2)
            return reconstruction(large, generator) + reconstruction(functional.avg_pool2d(small, 2), generator)

        trained = train("vae", vae, loss_of_batch, self.plan.vae, self.cache / "states")
        latents = encode_pictures(trained, pictures[:: max(1, len(pictures) // 2000)], 64, scaled=False)
        trained.register_to_config(scaling_factor=float(1.0 / latents.std()))
        trained.half().save_pretrained(self.cache / "vae")

    # ------------------------------------------------------------------------------------------------ denoisers

    def train_stable_diffusion(self) -> None:
        """Single views of 64, 32 and 16 pixels; half of the prompts name the view, as the teacher's prompts do in distillation.

        The generator denoises latents of a half or a quarter of the size, which a network this small has to be shown.
        """
        groups, vae = self.groups(), self._load_vae()
        sizes = {size: encode_pictures(vae, groups.rgb.flatten(0, 1), size) for size in (64, 32, 16)}

        def batch(index: Tensor, draw: random.Random) -> DenoiserBatch:
            size = draw.choices((64, 32, 16), (0.2, 0.6, 0.2))[0]
            if size == 64:   # of which each costs four times as much
                index = index[: max(1, len(index) // 4)]
            return sizes[size][index], _view_prompts(groups, index, draw), None

        unet = models.build_unet(16, camera=False)
        self._train_denoiser("stable_diffusion", unet, len(sizes[64]), batch, self.plan.stable_diffusion)
        _save(vae, self.output / "stable_diffusion" / "vae")

    def train_mvdream(self) -> None:
        """Four views at half the picture size, conditioned on their cameras."""
        single_view = load_network(UNet2DConditionModel, self.output / "stable_diffusion", "unet")
        unet = models.build_unet(8, camera=True)
        unet.load_state_dict(single_view.state_dict(), strict=False)
        groups, vae = self.groups(), self._load_vae()
        latents = encode_pictures(vae, groups.rgb.flatten(0, 1), 32).unflatten(0, (-1, VIEWS))
        batch = _group_batches(groups, latents, mvdream_camera_condition)
        self._train_denoiser("mvdream", unet, len(latents), batch, self.plan.mvdream)
        _save(vae, self.output / "mvdream" / "vae")

    def train_richdreamer_nd(self) -> None:
        """Four views of camera normals and disparity, used as the latent without an autoencoder."""
        groups, unet = self.groups(), models.build_normal_depth_unet()
        maps = groups.normal_disparity.float().permute(0, 1, 4, 2, 3)
        batch = _group_batches(groups, maps, richdreamer_camera_condition)
        self._train_denoiser("richdreamer_nd", unet, len(maps), batch, self.plan.richdreamer_nd)

    def _load_vae(self) -> AutoencoderKL:
        return load_network(AutoencoderKL, self.cache, "vae")

    def _train_denoiser(self, name: str, unet: nn.Module, samples: int, batch: BatchMaker, stage: Stage) -> None:
        """Prediction of the velocity with dropped prompts.

        At high noise, where distillation asks a teacher for its picture, the velocity nearly is that picture. A predictor of the
        noise has to repeat its input there, and what it misses by is multiplied by up to 14 in the picture. The loss is the error
        of the clean picture: sigma^2 times that of the velocity. Timesteps are drawn in proportion to their number, since
        distillation asks above 400, where there is more to learn.
        """
        tokenizer = CLIPTokenizer.from_pretrained(self.output / "text" / "tokenizer")
        text_model = load_network(CLIPTextModel, self.output / "text", "text_encoder").to(self.device).eval()
        scheduler = models.build_scheduler()
        schedule = NoiseSchedule(scheduler.alphas_cumprod, prediction_type="v_prediction").to(self.device)
        if self.start_from is not None:
            unet.load_state_dict(load_network(UNet2DConditionModel, self.start_from / name, "unet").state_dict())
        unet = unet.to(self.device)
        if unet.class_embedding is not None:
            install_joint_view_attention(unet, VIEWS)

        def loss_of_batch(generator: torch.Generator) -> Tensor:
            """Squared error of the clean picture at random timesteps."""
            index = torch.randint(samples, (stage.batch_size,), generator=generator)
            draw = random.Random(int(index.sum()) + int(index[0]))
            clean, prompts, cameras = batch(index, draw)
            prompts = ["" if draw.random() < NULL_PROMPT_SHARE else prompt for prompt in prompts]
            with torch.no_grad():
                tokens = text_model(models.tokenize(tokenizer, prompts).to(self.device)).last_hidden_state
            repeats = len(clean) // len(prompts)
            level = torch.rand(len(prompts), generator=generator).sqrt()
            t = (1000 * level).long().clamp_max(999).repeat_interleave(repeats).to(self.device)
            noise, clean = torch.randn(clean.shape, generator=generator).to(self.device), clean.to(self.device)
            labels = None if cameras is None else cameras.to(self.device)
            tokens = tokens.repeat_interleave(repeats, dim=0)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                predicted = unet(schedule.add_noise(clean, noise, t), t, tokens, class_labels=labels).sample
            _, sigma = schedule.levels(t, clean)
            return (sigma * (predicted.float() - schedule.velocity(clean, noise, t))).square().mean()

        state = name if self.start_from is None else f"{name}_continued"
        trained = train(state, unet, loss_of_batch, stage, self.cache / "states")
        folder = self.output / name
        _save(trained, folder / "unet")
        text_model.half().save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")
        scheduler.save_pretrained(folder / "scheduler")


def _save(network: AutoencoderKL | UNet2DConditionModel, folder: Path) -> None:
    """Writes a network in half precision, without the place that it was once loaded from."""
    network.register_to_config(_name_or_path="")
    network.half().save_pretrained(folder)


def to_signed(pictures: Tensor) -> Tensor:
    """[B, H, W, 3] bytes to [B, 3, H, W] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Tensor, size: int, scaled: bool = True) -> Tensor:
    """Latents [N, 4, size / 4, size / 4] of [N, 64, 64, 3] bytes, shrunk to ``size`` first."""
    latents = []
    for chunk in pictures.split(256):
        images = functional.adaptive_avg_pool2d(to_signed(chunk), size).to(vae.device)
        latents.append(vae.encode(images).latent_dist.mean.cpu())
    return torch.cat(latents) * (vae.config.scaling_factor if scaled else 1.0)


def _view_prompts(groups: dataset.RenderedGroups, index: Tensor, draw: random.Random) -> list[str]:
    """Paraphrases for single pictures; half of them name the view."""
    azimuth, prompts = groups.orbit[..., 1].flatten(), []
    for i in index.tolist():
        view = f", {horizontal_view_name(float(azimuth[i]))} view" if draw.random() < 0.5 else ""
        prompts.append(describe(groups.scenes[i // VIEWS], draw) + view)
    return prompts


def _group_batches(groups: dataset.RenderedGroups, samples: Tensor, condition: Callable[[Cameras], Tensor]) -> BatchMaker:
    """Batches of whole groups [G, V, C, h, w] with the camera numbers of a teacher."""

    def batch(index: Tensor, draw: random.Random) -> DenoiserBatch:
        prompts = [describe(groups.scenes[i], draw) for i in index.tolist()]
        return samples[index].flatten(0, 1), prompts, condition(groups.cameras(index))

    return batch


def _confused(scene: Scene, draw: random.Random) -> Scene:
    """A scene that is easily taken for ``scene``: colours or places swapped, another arrangement, or another colour."""
    if len(scene.parts) == 1:
        ((shape, color),) = scene.concepts
        return Scene.single(shape, draw.choice([other for other in models.COLORS if other != color]))
    (shape_a, color_a), (shape_b, color_b) = scene.concepts
    other = "beside" if scene.arrangement == "on" else "on"
    return draw.choice(
        [
            Scene.composition((shape_a, color_b), (shape_b, color_a), scene.arrangement),
            Scene.composition((shape_b, color_b), (shape_a, color_a), scene.arrangement),
            Scene.composition((shape_a, color_a), (shape_b, color_b), other),
        ]
    )
