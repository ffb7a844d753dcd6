"""What the tests of the teachers share: rendered maps of random pictures, cameras, and the tiny networks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prd_lightning.cameras import Cameras, CameraSettings, sample_training_cameras
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers import MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher
from prd_lightning.teachers.loading import load_autoencoder, load_denoiser
from prd_lightning.tinyworld import models, weights_root

PROMPTS = ["a red cone on a blue cube", "a green torus"]


@pytest.fixture
def prompts() -> list[str]:
    return list(PROMPTS)


@pytest.fixture
def cameras() -> Cameras:
    """Four views of each of two prompts."""
    return sample_training_cameras(2, CameraSettings(), torch.Generator().manual_seed(11))


@pytest.fixture
def make_maps() -> Callable[..., RenderedMaps]:
    """``make_maps(seed, size, views)``: maps with random pictures that require a gradient."""

    def make(seed: int = 0, size: int = 8, views: int = 8, dtype: torch.dtype = torch.float32) -> RenderedMaps:
        generator = torch.Generator().manual_seed(seed)

        def picture(channels: int) -> Tensor:
            return torch.rand(views, size, size, channels, generator=generator, dtype=dtype).requires_grad_()

        return RenderedMaps(picture(3), picture(1), picture(1), picture(1), picture(3), picture(3))

    return make


@pytest.fixture(scope="session")
def stable_diffusion() -> Callable[..., StableDiffusionTeacher]:
    """Makes the tiny Stable Diffusion teacher; the networks are loaded once."""
    networks, vae = load_denoiser("tinyworld:stable_diffusion"), load_autoencoder("tinyworld:stable_diffusion")
    return lambda **settings: StableDiffusionTeacher(*networks, vae=vae, **({"image_size": 16} | settings))


@pytest.fixture(scope="session")
def normal_depth() -> Callable[..., NormalDepthTeacher]:
    """Makes the tiny normal-depth teacher; the networks are loaded once."""
    networks = load_denoiser("tinyworld:richdreamer_nd", cameras=True)
    return lambda **settings: NormalDepthTeacher(*networks, **({"map_size": 8} | settings))


@pytest.fixture(scope="session")
def mvdream() -> Callable[..., MVDreamTeacher]:
    """Makes the tiny MVDream teacher; without its trained weights, the same architecture with random ones."""
    vae = load_autoencoder("tinyworld:stable_diffusion")
    if (weights_root() / "mvdream" / "unet").is_dir():
        networks = load_denoiser("tinyworld:mvdream", cameras=True)
    else:
        _, prompt_encoder, schedule = load_denoiser("tinyworld:stable_diffusion")
        networks = (models.build_unet(8, camera=True), prompt_encoder, schedule)
    return lambda **settings: MVDreamTeacher(*networks, vae=vae, **({"image_size": 16} | settings))


@pytest.fixture
def weights_copy(tmp_path: Path) -> Iterator[Path]:
    """A copy of the tiny Stable Diffusion that a test may damage."""
    import shutil

    yield Path(shutil.copytree(weights_root() / "stable_diffusion", tmp_path / "stable_diffusion"))
