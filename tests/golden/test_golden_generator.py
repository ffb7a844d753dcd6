"""The adapted generator and the field against the recorded network, from the authors' weight layout."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError
from prd_lightning.field import TriplaneField
from prd_lightning.generator import TriplaneGenerator
from prd_lightning.generator.official import (
    FIELD_NETWORKS,
    field_keys,
    load_official,
    official_keys,
    official_layers,
    official_ranks,
    official_view,
)

TRAINABLE = "geometry."


def split_weights(recorded):
    """Trained tensors under the authors' keys, and the frozen ones of UNet and autoencoder."""
    weights = recorded.weights
    trained = {key: value for key, value in weights.items() if key.startswith(TRAINABLE)}
    unet = {key.removeprefix("unet."): value for key, value in weights.items() if key.startswith("unet.")}
    vae = {key.removeprefix("vae."): value for key, value in weights.items() if key.startswith("vae.")}
    return trained, unet, vae


def build(recorded, compute="branch"):
    """Generator and field with the recorded weights."""
    settings, (trained, unet_state, vae_state) = recorded.settings, split_weights(recorded)
    unet, vae = UNet2DConditionModel(**settings["unet_config"]), AutoencoderKL(**settings["vae_config"])
    unet.load_state_dict(unet_state)
    absent = vae.load_state_dict(vae_state, strict=False)
    assert not absent.unexpected_keys
    assert all(key.startswith(("encoder.", "quant_conv.", "decoder.conv_out.")) for key in absent.missing_keys)
    geometry = settings["geometry_config"]
    channels = geometry["space_generator_config"]["output_dim"]
    generator = TriplaneGenerator(unet, vae, plane_channels=channels, ranks=official_ranks(trained), compute=compute)
    hidden = trained[f"geometry.{next(iter(FIELD_NETWORKS))}.layers.0.weight"].shape[0]
    field = TriplaneField(channels // 2, hidden, sphere_radius=geometry["sdf_bias_params"])
    load_official(trained, generator, field)
    return generator.eval(), field


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("generator_tiny")


@pytest.fixture(scope="module", params=["branch", "merged", "folded"])
def parts(request, recorded):
    """Every way to compute the adapters."""
    generator, field = build(recorded, "branch" if request.param == "folded" else request.param)
    return (generator.fold() if request.param == "folded" else generator), field


@pytest.fixture(scope="module")
def prepared(recorded):
    return TriplaneField.prepare(recorded.outputs["triplane"])


def schedule_of(golden):
    return NoiseSchedule(golden("sampler_tiny").inputs["alphas_cumprod"])


@torch.no_grad()
def test_noise_prediction(parts, recorded, close):
    given = recorded.inputs
    noise = parts[0].predict(given["noisy_latents"], given["timestep"], given["text_embed"])
    close(noise, recorded.outputs["noise_pred"], 1e-4)
    close(noise, recorded.outputs64["noise_pred"], 2e-5)


@torch.no_grad()
def test_decoded_planes(parts, recorded, close):
    planes = parts[0].decode(recorded.inputs["latents"])
    close(planes, recorded.outputs["triplane"], 1e-4)
    close(planes[:1], recorded.outputs64["triplane_item0"], 2e-5)
    full, half = recorded.outputs["triplane_full"], planes.shape[2]
    assert torch.equal(torch.cat([full[:, :3, :half], full[:, 3:, half:]], dim=1), recorded.outputs["triplane"])


@torch.no_grad()
def test_four_step_sample(parts, golden, recorded, close):
    generator, schedule, given = parts[0], schedule_of(golden), recorded.inputs
    timesteps = recorded.settings["sample_timesteps"]
    planes = generator.sample(given["text_embed"], given["sample_noise"], schedule, len(timesteps))
    close(planes, recorded.outputs["sample_triplane"], 1e-4)
    latents, stride = given["sample_noise"], schedule.num_timesteps // len(timesteps)
    for index, t in enumerate(timesteps):
        noise = generator.predict(latents, t, given["text_embed"])
        latents, clean = schedule.ddim_step(latents, noise, t, t - stride)
        close(noise, recorded.outputs[f"sample_step{index}_noise_pred"], 1e-4, f"noise of step {index}")
        close(latents, recorded.outputs[f"sample_step{index}_prev"], 1e-4, f"latents of step {index}")
        close(clean, recorded.outputs[f"sample_step{index}_x0"], 1e-4, f"estimate of step {index}")


@torch.no_grad()
def test_look_up(parts, recorded, prepared, close):
    field, points = parts[1], recorded.inputs["points"]
    close(field.geometry_features(prepared, points), recorded.outputs["enc_geo"], 1e-5)
    close(field.texture_features(prepared, points), recorded.outputs["enc_tex"], 1e-5)


@torch.no_grad()
def test_field_values(parts, recorded, prepared, close):
    field, points, outputs = parts[1], recorded.inputs["points"], recorded.outputs
    sdf, deformation = field.sdf_and_deformation(prepared, points)
    for name in ("sdf", "field_sdf", "forward_sdf"):
        close(sdf[..., None], outputs[name], 1e-5, name)
    close(field.sdf(prepared, points)[..., None], recorded.outputs64["sdf"], 1e-5)
    close(deformation, outputs["field_deformation"], 1e-5)
    close(deformation, recorded.outputs64["field_deformation"], 1e-5)
    features = field.texture_network(field.texture_features(prepared, points))
    close(features, outputs["features"], 1e-5)
    close(features, recorded.outputs64["features"], 1e-5)
    close(features[:1], outputs["export_features_item0"], 1e-5)
    close(field.color(prepared, points), outputs["rgb"], 1e-5)


@torch.no_grad()
def test_field_gradient(parts, recorded, prepared, close):
    value, gradient = parts[1].sdf_and_gradient(prepared, recorded.inputs["points"])
    close(value[..., None], recorded.outputs["sdf"], 1e-5)
    close(gradient, recorded.outputs["sdf_grad"], 1e-4)
    close(gradient, recorded.outputs64["sdf_grad"], 1e-4)
    close(torch.nn.functional.normalize(gradient, dim=-1), recorded.outputs["normal"], 1e-4)


@pytest.mark.parametrize("compute", ["branch", "merged"])
def test_gradients_of_every_trainable_tensor(golden, recorded, close, compute):
    generator, field = build(recorded, compute)
    given = recorded.inputs
    t, noisy = int(given["timestep"]), given["noisy_latents"]
    clean = schedule_of(golden).predict_clean(noisy, generator.predict(noisy, t, given["text_embed"]), t)
    planes = generator.decode(clean)
    prepared = field.prepare(planes)
    sdf, deformation = field.sdf_and_deformation(prepared, given["points"])
    features = field.texture_network(field.texture_features(prepared, given["points"]))
    loss = sdf.square().mean() + features.sigmoid().square().mean() + deformation.square().mean()
    close(clean, recorded.outputs["chain_x0"], 1e-4)
    close(planes, recorded.outputs["chain_triplane"], 1e-4)
    close(loss, recorded.outputs["chain_loss"], 1e-4)
    loss.backward()
    gradients = official_gradients(generator, field)
    norms = recorded.settings["grad_norms"]
    assert gradients.keys() == norms.keys()
    largest = max(norms.values())
    for key, norm in norms.items():
        assert float(gradients[key].double().norm()) == pytest.approx(norm, rel=1e-4, abs=1e-6 * largest), key
    assert recorded.grads
    for key, expected in recorded.grads.items():
        close(gradients[key], expected, 1e-4, key)


def official_gradients(generator, field):
    own = {name: parameter.grad for name, parameter in generator.named_parameters() if parameter.requires_grad}
    on_field = {name: parameter.grad for name, parameter in field.named_parameters()}
    gradients = {key: place.to_theirs(own[place.name]) for key, place in official_keys(generator).items()}
    return gradients | {key: on_field[name] for key, name in field_keys().items()}


def test_layers_are_in_the_recorded_order(recorded):
    generator, _ = build(recorded)
    check_layers(generator, recorded.settings["layers"])


def check_layers(generator, layers):
    ours = official_layers(generator)
    assert [layer["index"] for layer in layers] == list(range(len(ours)))
    for module, layer in zip(ours, layers):
        theirs = layer["mapping_name"].removesuffix(".processor").removesuffix(".lora_layer").removeprefix("vae.")
        assert module in (theirs, f"unet.{theirs}")


def test_loaded_weights_come_back_unchanged(recorded):
    trained, *_ = split_weights(recorded)
    view = official_view(*build(recorded))
    assert view.keys() == trained.keys() - {"geometry.bbox"}
    assert all(torch.equal(value, trained[key]) for key, value in view.items())


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_damaged_files_name_the_key_and_change_nothing(recorded, damage):
    trained, *_ = split_weights(recorded)
    generator, field = build(recorded)
    before = {key: value.clone() for key, value in official_view(generator, field).items()}
    key = sorted(before)[5]
    damaged = {name: value + 1 for name, value in trained.items()}
    if damage == "missing":
        del damaged[key]
    elif damage == "unknown":
        key = "geometry.something_else"
        damaged[key] = torch.zeros(3)
    else:
        damaged[key] = torch.zeros(1, 2)
    with pytest.raises(CheckpointFormatError, match=key):
        load_official(damaged, generator, field)
    assert all(torch.equal(value, before[name]) for name, value in official_view(generator, field).items())


def test_files_without_adapters_are_refused():
    with pytest.raises(CheckpointFormatError, match="no adapters"):
        official_ranks({"model.weight": torch.zeros(2)})


def test_full_size_layout(golden):
    """The authors' file at its real size: every key and shape, on the meta device."""
    layout = golden.settings("official_adapter_layout")
    theirs = {entry["key"]: tuple(entry["shape"]) for entry in layout["entries"]}
    with torch.device("meta"):
        channels = layout["geometry_config"]["space_generator_config"]["output_dim"]
        state = {key: torch.empty(shape) for key, shape in theirs.items()}
        generator = TriplaneGenerator(
            UNet2DConditionModel(**layout["unet_config"]),
            AutoencoderKL(**layout["vae_config"]),
            plane_channels=channels,
            ranks=official_ranks(state),
        )
        field = TriplaneField(channels // 2)
        load_official(state, generator, field)
    check_layers(generator, layout["layers"])
    ours = {key: tuple(value.shape) for key, value in official_view(generator, field).items()}
    assert ours == {key: shape for key, shape in theirs.items() if key != "geometry.bbox"}
    counts = layout["counts"]
    trainable = generator.trainable_parameter_count() + sum(parameter.numel() for parameter in field.parameters())
    assert trainable == counts["trainable_total_excl_bbox"]
    assert generator.trainable_parameter_count() == counts["peft_unique"]


def test_share_of_trainable_values(golden):
    counts = golden.settings("official_adapter_layout")["counts"]
    frozen = counts["unet"] + counts["vae_decoder_and_post_quant"]
    with torch.device("meta"):
        layout = golden.settings("official_adapter_layout")
        unet, vae = UNet2DConditionModel(**layout["unet_config"]), AutoencoderKL(**layout["vae_config"])
    own = [unet, vae.decoder, vae.post_quant_conv]
    assert sum(parameter.numel() for network in own for parameter in network.parameters()) == frozen
    assert 100 * counts["trainable_total_excl_bbox"] / frozen == pytest.approx(counts["percent_of_unet_decoder"], rel=1e-9)
