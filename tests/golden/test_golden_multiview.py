"""The multi-view teachers' networks against the recorded ones, from the original weight layout."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from prd_lightning.cameras import orbit_cameras
from prd_lightning.errors import CheckpointFormatError
from prd_lightning.teachers.conversion import (
    MVDREAM_UNET,
    NORMAL_DEPTH_UNET,
    UNET_PREFIX,
    check_other_keys,
    multiview_unet_from_ldm,
    unet_key,
    unet_state_from_ldm,
    vae_state_from_ldm,
)
from prd_lightning.teachers.multiview import (
    install_joint_view_attention,
    mvdream_camera_condition,
    rotated_camera_condition,
    unit_sphere_camera_condition,
)

FILES = ["mvdream_tiny", "richdreamer_nd_tiny"]
LAYOUTS = {"mvdream_sd21_4view_layout": MVDREAM_UNET, "nd_mv_layout": NORMAL_DEPTH_UNET}


@pytest.fixture(scope="module", params=FILES)
def recorded(request, golden):
    return golden(request.param)


@pytest.fixture(scope="module")
def unet(recorded):
    config = recorded.settings["diffusers_equivalent"]["config"]
    return multiview_unet_from_ldm(recorded.weights, config).requires_grad_(False).eval()


def predict(unet, recorded, views):
    given = recorded.inputs
    install_joint_view_attention(unet, views)
    return unet(given["x"], given["t"], given["context"], class_labels=given["camera"]).sample


def test_noise_prediction(unet, recorded, close):
    noise = predict(unet, recorded, recorded.settings["num_frames"])
    close(noise, recorded.outputs64["eps"], 2e-5)
    close(noise, recorded.outputs["eps"], 2e-5)
    close(noise, recorded.outputs["eps_diffusers"], 2e-5)


def test_noise_prediction_of_single_views(unet, recorded, close):
    close(predict(unet, recorded, 1), recorded.outputs["eps_num_frames_1"], 2e-5)


def test_noise_prediction_without_the_camera(unet, recorded, close):
    """Subtracting the camera's vector from the bias that it is added to leaves the network that knows no camera."""
    given, last = recorded.inputs, unet.class_embedding.linear_2
    kept = [parameter.clone() for parameter in (last.weight, last.bias)]
    try:
        last.weight.zero_(), last.bias.zero_()
        close(predict(unet, recorded, recorded.settings["num_frames"]), recorded.outputs["eps_no_camera"], 2e-5)
    finally:
        last.weight.copy_(kept[0]), last.bias.copy_(kept[1])
    assert given["camera"].abs().sum() > 0


def test_time_and_camera_embedding(unet, recorded, close):
    given = recorded.inputs
    embedding = unet.time_embedding(unet.time_proj(given["t"])) + unet.class_embedding(given["camera"])
    close(embedding, recorded.outputs["time_camera_embedding"], 1e-5)


def test_key_map_is_the_recorded_one(recorded):
    settings = recorded.settings["diffusers_equivalent"]
    layers = settings["config"]["layers_per_block"]
    assert recorded.weights.keys() == settings["key_map"].keys()
    ours = {key: unet_key(key.removeprefix(UNET_PREFIX), layers) for key in recorded.weights}
    assert ours == settings["key_map"]
    assert len(set(ours.values())) == settings["n_mapped"]


def test_gradient_reaches_the_sample_through_the_converted_network(unet, recorded):
    """Central differences along one direction: the joint attention processor is differentiable."""
    given = recorded.inputs
    install_joint_view_attention(unet, recorded.settings["num_frames"])
    unet.double()
    try:
        sample = given["x"].double().requires_grad_()
        labels, context = given["camera"].double(), given["context"].double()

        def value(picture):
            return unet(picture, given["t"], context, class_labels=labels).sample.square().sum()

        (gradient,) = torch.autograd.grad(value(sample), sample)
        direction = torch.randn_like(gradient)
        step = 1e-5
        with torch.no_grad():
            difference = (value(sample + step * direction) - value(sample - step * direction)) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)
    finally:
        unet.float()


def test_mvdream_cameras(golden, close):
    recorded = golden("mvdream_tiny")
    cases = recorded.inputs["camera_cases_c2w"]
    before = cases.clone()
    close(unit_sphere_camera_condition(cases), recorded.outputs["camera_cases_normalized"], 1e-6)
    close(unit_sphere_camera_condition(recorded.inputs["c2w"]), recorded.inputs["camera"], 1e-6)
    assert torch.equal(cases, before), "the argument must not be written to"
    ((name, expected),) = ((key, value) for key, value in recorded.outputs.items() if key.startswith("get_camera_"))
    elevation = float(name.rpartition("_el")[2])
    azimuth = torch.arange(len(expected)) * (360.0 / len(expected)) - 90.0  # theirs starts on -y
    ones = torch.ones(len(expected))
    close(mvdream_camera_condition(orbit_cameras(elevation * ones, azimuth, 3 * ones, 40 * ones)), expected, 1e-6)


def test_richdreamer_cameras(golden, close):
    recorded = golden("richdreamer_nd_tiny")
    given = recorded.inputs
    close(
        rotated_camera_condition(given["camera_cases_c2w"], given["camera_cases_distances"]),
        recorded.outputs["camera_cases_cond"],
        1e-6,
    )
    close(rotated_camera_condition(given["c2w"], given["distances"]), given["camera"], 1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_full_size_unet_layout(golden, name):
    """The real file's keys: all of them find a tensor of the right shape, none of ours stays empty."""
    layout, config = golden.settings(name), LAYOUTS[name]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    assert plain == layout["diffusers_config"]
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in UNet2DConditionModel(**config).state_dict().items()}
        theirs = {key: torch.empty(shape) for key, shape in layout["unet"].items()}
    converted = unet_state_from_ldm(theirs, config["layers_per_block"])
    assert {key: list(value.shape) for key, value in converted.items()} == own
    named = {key: unet_key(key.removeprefix(UNET_PREFIX), config["layers_per_block"]) for key in theirs}
    assert named == layout["ldm_to_diffusers"]
    assert sum(value.numel() for value in theirs.values()) == layout["n_params"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_full_size_other_parts(golden, name):
    """Autoencoder and schedule buffers of the real file: the first converts in full, the others are known by name."""
    layout = golden.settings(name)
    first_stage, buffers = layout.get("first_stage", {}), layout["schedule_buffers"]
    check_other_keys(dict.fromkeys([*layout["unet"], *first_stage, *buffers], torch.zeros(())))
    if not first_stage:
        return
    params = layout["full_config"]["first_stage_config"]["params"]["ddconfig"]
    widths = [params["ch"] * factor for factor in params["ch_mult"]]
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
            block_out_channels=widths,
            layers_per_block=params["num_res_blocks"],
            latent_channels=params["z_channels"],
        )
        theirs = {key: torch.empty(shape) for key, shape in first_stage.items()}
    converted = {key: list(value.shape) for key, value in vae_state_from_ldm(theirs, len(widths)).items()}
    assert converted == {key: list(value.shape) for key, value in vae.state_dict().items()}


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_damaged_unets_are_refused(recorded, damage):
    state, config = dict(recorded.weights), recorded.settings["diffusers_equivalent"]["config"]
    key = f"{UNET_PREFIX}out.2.weight"
    named = "conv_out.weight"
    if damage == "missing":
        del state[key]
    elif damage == "unknown":
        named = f"{UNET_PREFIX}input_blocks.1.0.extra.weight"
        state[named] = torch.zeros(1)
    else:
        state[key] = state[key][:1]
    with pytest.raises(CheckpointFormatError, match=named):
        multiview_unet_from_ldm(state, config)
