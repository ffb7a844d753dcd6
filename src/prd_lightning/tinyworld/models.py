"""Architectures of the tiny models: the classes of the real ones (CLIP, AutoencoderKL, UNet2DConditionModel), small.

The VAE shrinks pictures by 4 instead of 8, so a 64-pixel picture is a 16x16 latent and a 32-pixel view an 8x8 one.
"""

import json
import random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from prd_lightning.tinyworld.grammar import describe, random_training_scene
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, Scene

TEXT_WIDTH = 64
START, END = "<|startoftext|>", "<|endoftext|>"
VIEW_WORDS = ("front view", "side view", "back view", "overhead view")


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer (lower-cased byte pairs with a word-end mark) in which every word of the grammar is one token."""
    draw = random.Random(0)
    corpus = [describe(Scene.single(shape, color), draw) for shape in PRIMITIVES for color in COLORS for _ in range(20)]
    corpus += [f"{describe(random_training_scene(draw, 1.0), draw)}, {draw.choice(VIEW_WORDS)}" for _ in range(4000)]
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    trainee.normalizer = normalizers.Lowercase()
    trainee.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False)
    trainee.train_from_iterator(corpus, trainer)
    learned = json.loads(trainee.to_str())["model"]
    tokens = alphabet + [f"{letter}</w>" for letter in alphabet]
    tokens += [token for token in sorted(learned["vocab"], key=learned["vocab"].get) if token not in set(tokens)]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token numbers [B, 77]."""
    return tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP with a 64-wide text and a 64-wide vision tower; its text tower conditions all tiny diffusion models."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shared = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_attention_heads": 4,
        "projection_dim": TEXT_WIDTH,
    }
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, num_hidden_layers=3, **shared, **ids)
    vision = CLIPVisionConfig(image_size=64, patch_size=8, num_hidden_layers=4, **shared)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=TEXT_WIDTH))


def build_vae() -> AutoencoderKL:
    """An autoencoder that shrinks by 4: [B, 3, 64, 64] in [-1, 1] to [B, 4, 16, 16]."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def build_unet(sample_size: int, camera: bool) -> UNet2DConditionModel:
    """A denoiser of [B, 4, s, s] latents; with ``camera`` it takes 16 camera numbers as class labels."""
    return _unet(sample_size, camera, widths=(32, 64, 96), attends=(True, True, False))


def build_normal_depth_unet() -> UNet2DConditionModel:
    """A denoiser of [B, 4, 16, 16] maps with 16 camera numbers; wider, but without attention at full size, which costs most."""
    return _unet(16, camera=True, widths=(64, 96, 128), attends=(False, True, True))


def _unet(
    sample_size: int, camera: bool, widths: tuple[int, int, int], attends: tuple[bool, bool, bool]
) -> UNet2DConditionModel:
    """With a ``camera`` its numbers' first layer is drawn 16 times as large as usual.

    The 16 numbers turn once in a circle around the object. A cube looks the same after a quarter of it, so its picture varies
    four times as fast, and a small first layer hides that for thousands of steps (spectral bias, arXiv 1806.08734).
    """
    conditioning = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16} if camera else {}
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        down_block_types=tuple("CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)),
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(width // 16 for width in widths),
        use_linear_projection=True,
        **conditioning,
    )
    if camera:
        with torch.no_grad():
            for parameter in unet.class_embedding.linear_1.parameters():
                parameter *= 16
            unet.class_embedding.linear_2.weight /= 4
    return unet


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion; the networks predict the velocity, as those of its 768-pixel version do."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )
