"""Training and inference on a CUDA device; skipped where there is none."""

import pytest
import torch

from prd_lightning.building import build_data, build_module
from prd_lightning.configuration import compose_config
from prd_lightning.sampling import sample_planes

pytestmark = pytest.mark.gpu

SMALL = ["world.batch_size=1", "renderer.volume.image_size=8", "renderer.mesh.resolution=8", "renderer.mesh.image_size=16"]


@pytest.fixture(scope="module")
def module():
    return build_module(compose_config(SMALL)).cuda()


def test_a_micro_batch_trains_on_the_gpu(module):
    batch = next(iter(build_data(compose_config(SMALL)).train_dataloader())).to("cuda")
    maps = module.unroll(batch)
    assert all(rendered.rgb.is_cuda and torch.isfinite(rendered.rgb).all() for rendered in maps.values())
    sum(rendered.rgb.sum() for rendered in maps.values()).backward()
    gradients = [parameter.grad for parameter in module.trainable_parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_planes_agree_with_the_cpu(module):
    on_gpu = sample_planes(module.parts, ["a red cone"], [0], steps=4).geometry.cpu()
    on_cpu = sample_planes(build_module(compose_config(SMALL)).parts, ["a red cone"], [0], steps=4).geometry
    assert on_gpu.shape == on_cpu.shape and torch.isfinite(on_gpu).all()
