"""The generator on the tiny Stable Diffusion."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError
from prd_lightning.generator import AdaptedConv2d, AdaptedLinear, AdapterRanks, TriplaneGenerator
from prd_lightning.generator.adapters import PLANES
from prd_lightning.weights import resolve_folder

FOLDER = resolve_folder("tinyworld:stable_diffusion")


def build(seed: int = 0, trained: bool = True, **settings: object) -> TriplaneGenerator:
    """A generator whose adapters have been moved away from their start unless it is not ``trained``."""
    torch.manual_seed(seed)
    generator = TriplaneGenerator.from_folder(FOLDER, **({"plane_channels": 8, "ranks": 2, "latent_size": 8} | settings)).eval()
    if trained:
        with torch.no_grad():
            for _, layer in generator.adapted_layers():
                layer.up.normal_(std=0.05)
    return generator


@pytest.fixture(scope="module")
def generator() -> TriplaneGenerator:
    return build()


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2 * PLANES, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def planes_and_gradients(generator: TriplaneGenerator, latents: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    planes = generator.decode(generator.predict(latents, 500, text))
    weights = torch.linspace(-1, 1, planes.numel(), dtype=planes.dtype).view_as(planes)
    return [planes, *torch.autograd.grad((planes * weights).sum(), list(generator.trainable_state_dict().values()))]


def test_branch_merged_and_folded_agree(latents: torch.Tensor, text: torch.Tensor):
    latents, text = latents[:PLANES].double(), text[:1].double()
    branch = build().double()
    merged = build(compute="merged").double()
    results = [planes_and_gradients(generator, latents, text) for generator in (branch, merged)]
    for ours, other in zip(*results, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9 * float(ours.detach().abs().max()))
    folded = branch.fold()
    planes = folded.decode(folded.predict(latents, 500, text))
    torch.testing.assert_close(planes, results[0][0], rtol=1e-10, atol=1e-10)
    assert not [value for value in folded.parameters() if value.requires_grad]


def test_adapter_gradients_against_finite_differences(latents: torch.Tensor, text: torch.Tensor):
    generator, latents, text = build().double(), latents[:PLANES].double(), text[:1].double()
    _, *gradients = planes_and_gradients(generator, latents, text)
    names = list(generator.trainable_state_dict())
    weights = torch.linspace(-1, 1, 6 * 4 * 32 * 32, dtype=torch.float64)

    def objective() -> float:
        with torch.no_grad():
            return float((generator.decode(generator.predict(latents, 500, text)).flatten() * weights).sum())

    for name in (names[0], names[len(names) // 2], names[-4], "decoder.conv_out.weight"):
        parameter, gradient = generator.trainable_state_dict()[name], gradients[names.index(name)]
        position = int(gradient.abs().argmax())
        step, flat = 1e-5, parameter.data.view(-1)
        flat[position] += step
        high = objective()
        flat[position] -= 2 * step
        low = objective()
        flat[position] += step
        assert (high - low) / (2 * step) == pytest.approx(float(gradient.flatten()[position]), rel=1e-5), name


def test_a_new_generator_predicts_what_stable_diffusion_with_joint_attention_predicts(latents: torch.Tensor, text: torch.Tensor):
    """With one token per plane-independent input (all planes equal), joint attention equals plain attention."""
    generator = build(trained=False)
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", torch_dtype=torch.float32).eval()
    same = latents[:1].expand(PLANES, -1, -1, -1)
    expected = unet(same[:1], 300, text[:1]).sample
    with torch.no_grad():
        actual = generator.predict(same, 300, text[:1])
    for plane in actual:
        torch.testing.assert_close(plane[None], expected, rtol=1e-4, atol=1e-5)


def test_scenes_do_not_see_each_other_and_planes_do(generator: TriplaneGenerator, latents: torch.Tensor, text: torch.Tensor):
    with torch.no_grad():
        before = generator.predict(latents, 500, text)
        latents[0] += 1.0
        after = generator.predict(latents, 500, text)
    change = (after - before).abs().flatten(1).amax(dim=1)
    assert (change[:PLANES] > 1e-4).all()
    assert (change[PLANES:] < 1e-5).all()


def test_decode_splits_channels_and_takes_latents_as_they_are(generator: TriplaneGenerator, latents: torch.Tensor):
    with torch.no_grad():
        planes = generator.decode(latents)
        raw = generator.decoder(generator.post_quant_conv(latents)).view(2, PLANES, 8, 32, 32)
    assert planes.shape == (2, PLANES, 4, 32, 32)
    torch.testing.assert_close(planes[:, :3], raw[:, :3, :4])
    torch.testing.assert_close(planes[:, 3:], raw[:, 3:, 4:])


def test_decoder_before_training_is_stable_diffusion_s(latents: torch.Tensor):
    """Everything before the new last convolution is the frozen decoder."""
    generator, vae = build(trained=False), AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32).eval()
    last = deepcopy(vae.decoder.conv_out)
    generator.decoder.conv_out = last
    with torch.no_grad():
        torch.testing.assert_close(
            generator.decoder(generator.post_quant_conv(latents)), vae.decode(latents).sample, rtol=1e-4, atol=1e-5
        )


def test_what_is_adapted_and_how(generator: TriplaneGenerator):
    layers = dict(generator.adapted_layers())
    linear = {name: layer for name, layer in layers.items() if isinstance(layer, AdaptedLinear)}
    assert {name for name, layer in linear.items() if layer.pairs == PLANES} == {name for name in linear if ".attn1." in name}
    reading_output = {name for name, layer in linear.items() if layer.reads_output}
    assert reading_output == {name for name in linear if ".attn1.to_out" in name}
    for block in ("attn1", "attn2"):
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            assert any(f".{block}.{projection}" in name for name in linear), (block, projection)
    assert sum("decoder.mid_block.attentions" in name for name in linear) == 4
    convolutions = {name for name, layer in layers.items() if isinstance(layer, AdaptedConv2d)}
    for part in (
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.up_blocks.0.upsamplers.0.conv",
    ):
        assert part in convolutions
    assert any("conv_shortcut" in name for name in convolutions)
    assert not {"unet.conv_in", "unet.conv_out", "decoder.conv_in"} & convolutions


def test_only_adapters_and_last_convolution_are_trainable(generator: TriplaneGenerator):
    allowed = (".down", ".up", "decoder.conv_out.weight", "decoder.conv_out.bias")
    names = [name for name, value in generator.named_parameters() if value.requires_grad]
    assert names and all(name.endswith(allowed) for name in names)
    assert generator.trainable_parameter_count() == sum(generator.get_parameter(name).numel() for name in names)


def test_trainable_state_makes_the_round_trip(generator: TriplaneGenerator, latents: torch.Tensor, text: torch.Tensor):
    other = build(seed=9)
    state = {name: value.detach().clone() for name, value in generator.trainable_state_dict().items()}
    with torch.no_grad():
        assert not torch.allclose(other.predict(latents, 10, text), generator.predict(latents, 10, text))
        other.load_trainable_state_dict(state)
        assert torch.equal(other.predict(latents, 10, text), generator.predict(latents, 10, text))
        assert torch.equal(other.decode(latents), generator.decode(latents))


@pytest.mark.parametrize("fault", ["lacks", "unknown", "has shape"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(generator: TriplaneGenerator, fault: str):
    state = {name: value.detach() + 1 for name, value in generator.trainable_state_dict().items()}
    before = generator.decoder.conv_out.bias.detach().clone()
    first = next(iter(state))
    if fault == "lacks":
        del state[first]
    elif fault == "unknown":
        state["stranger"] = torch.zeros(1)
    else:
        state[first] = torch.zeros(1)
    with pytest.raises(CheckpointFormatError, match=fault):
        generator.load_trainable_state_dict(state)
    assert torch.equal(generator.decoder.conv_out.bias, before)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sample_is_the_ddim_recursion(
    generator: TriplaneGenerator, latents: torch.Tensor, text: torch.Tensor, prediction_type: str
):
    schedule = NoiseSchedule.from_folder(FOLDER / "scheduler")
    schedule.prediction_type = prediction_type
    abar = schedule.alphas_cumprod
    with torch.no_grad():
        current = latents
        for t in (999, 749, 499, 249):
            noise = generator.predict(current, t, text)
            if prediction_type == "v_prediction":
                noise = abar[t].sqrt() * noise + (1 - abar[t]).sqrt() * current
            clean = (current - (1 - abar[t]).sqrt() * noise) / abar[t].sqrt()
            level = abar[t - 250] if t > 250 else abar[0]
            current = level.sqrt() * clean + (1 - level).sqrt() * noise
        expected = generator.decode(clean)
    torch.testing.assert_close(generator.sample(text, latents, schedule), expected, rtol=1e-4, atol=1e-4)


def test_shared_adapters_and_unequal_ranks():
    generator = build(per_plane=False, ranks=AdapterRanks(3, 2, 1, 4))
    layers = dict(generator.adapted_layers())
    expected = {".attn1.": 3, ".attn2.": 2, "decoder.mid_block.attentions": 4, ".conv1": 1}
    for part, rank in expected.items():
        chosen = [layer for name, layer in layers.items() if part in name]
        assert chosen and all(layer.down.shape[:2] == (1, rank) for layer in chosen), part


def test_mistakes_are_named(generator: TriplaneGenerator, latents: torch.Tensor, text: torch.Tensor, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="must be even, got 7"):
        build(plane_channels=7)
    with pytest.raises(ConfigurationError, match="'merged' or 'branch', got 'fast'"):
        build(compute="fast")
    with pytest.raises(ConfigurationError, match="2 prompts need 12 latents, got 6"):
        generator.predict(latents[:PLANES], 5, text)
    with pytest.raises(MissingWeightsError, match="no unet in"):
        TriplaneGenerator.from_folder(tmp_path)


def test_full_fine_tuning_trains_and_saves_the_base_too():
    adapted, full = (build(ranks=1, trained=False, train_base=base) for base in (False, True))
    assert all(parameter.requires_grad for parameter in full.parameters())
    assert "unet.conv_in.weight" in full.trainable_state_dict() and "unet.conv_in.weight" not in adapted.trainable_state_dict()
    assert full.trainable_parameter_count() == sum(parameter.numel() for parameter in full.parameters())
