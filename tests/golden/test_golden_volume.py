"""NeuS weights, maps and their gradients against the recorded volume renderer."""

import pytest
import torch
from torch.nn import functional

from prd_lightning.cameras import Cameras
from prd_lightning.field import TriplaneField
from prd_lightning.rendering import VolumeRenderer
from prd_lightning.rendering.maps import WHITE_BACKGROUND, disparity_from_depth, normal_to_camera
from prd_lightning.rendering.neus import (
    INVERSE_STANDARD_DEVIATION,
    depth_variance,
    neus_alpha,
    render_weights,
    volsdf_alpha,
)


@pytest.fixture
def recorded(golden):
    return golden("volume_render_tiny")


def cameras_of(recorded) -> Cameras:
    """Cameras with the recorded poses; the field of view is read off the recorded corner ray."""
    given = recorded.inputs
    pose, height = given["c2w"], given["rays_d"].shape[1]
    local = torch.einsum("vji,vhwj->vhwi", pose[:, :3, :3], given["rays_d"])
    half_tangent = (local[:, 0, 0, 1] / -local[:, 0, 0, 2]) * height / (height - 1)
    distance = given["camera_distances"]
    return Cameras(pose, 2 * torch.atan(half_tangent), distance, distance * half_tangent, distance * 0, distance * 0)


def composite(recorded, sdf, normal, rgb):
    """All maps from the samples, by the library's functions."""
    given, shape = recorded.inputs, (*recorded.inputs["rays_d"].shape[:3], -1)
    starts, ends = given["t_starts"], given["t_ends"]
    directions = given["rays_d"].reshape(-1, 1, 3)
    alpha = neus_alpha(sdf[..., 0], (normal * directions).sum(-1), ends - starts, recorded.settings["inv_std"])
    weights = render_weights(alpha)[..., None]
    opacity = weights.sum(1).view(shape)
    middle = 0.5 * (starts + ends)
    depth = (weights[..., 0] * middle).sum(1).view(shape)
    surface_normal = functional.normalize((weights * normal).sum(1), dim=-1).view(shape)
    foreground = (weights * rgb).sum(1).view(shape)
    cameras = cameras_of(recorded)
    return {
        "alpha": alpha[..., None],
        "weights": weights,
        "comp_rgb_fg": foreground,
        "comp_rgb": foreground + (1 - opacity) * given["background"],
        "opacity": opacity,
        "comp_rgb_bg": given["background"],
        "depth": depth,
        "z_variance": depth_variance(weights[..., 0], middle, depth.view(-1, 1)).view(shape),
        "disparity": disparity_from_depth(depth, opacity, cameras.distance),
        "comp_normal": surface_normal,
        "comp_normal_cam_vis": normal_to_camera(surface_normal, opacity, cameras),
        "comp_normal_cam_vis_white": normal_to_camera(surface_normal, opacity, cameras, WHITE_BACKGROUND),
    }


def test_inverse_standard_deviation(recorded):
    assert INVERSE_STANDARD_DEVIATION == pytest.approx(recorded.settings["inv_std"], rel=1e-6)


def test_proposal_density(recorded, close):
    step = recorded.settings["render_step_size"]
    density = neus_alpha(recorded.inputs["sdf"][..., 0], -1.0, step, recorded.settings["inv_std"]) / step
    close(density, recorded.outputs["proposal_density"], 1e-5)


def test_annealed_cosines_and_volsdf(recorded, close):
    """The share of NeuS's own slope stands in the output's name; the original's VolSDF is density times length."""
    given, prefix = recorded.inputs, "alpha_cos_anneal_"
    sdf, lengths = given["sdf"][..., 0], given["t_ends"] - given["t_starts"]
    cosine = (given["normal"] * given["rays_d"].reshape(-1, 1, 3)).sum(-1)
    sharpness = recorded.settings["inv_std"]
    annealed = {name: value for name, value in recorded.outputs.items() if name.startswith(prefix)}
    assert annealed
    for name, expected in annealed.items():
        share = float(name.removeprefix(prefix))
        close(neus_alpha(sdf, cosine, lengths, sharpness, share)[..., None], expected, 1e-5, name)
    close(volsdf_alpha(sdf, lengths, sharpness, linear=True)[..., None], recorded.outputs["alpha_volsdf"], 1e-5)


def test_nothing_that_was_recorded_is_left_out(recorded):
    """Every output is compared in one of these tests."""
    given = recorded.inputs
    elsewhere = {"proposal_density", "alpha_volsdf", "grad_loss"}
    elsewhere |= {name for name in recorded.outputs if name.startswith("alpha_cos_anneal_")}
    assert set(recorded.outputs) - set(composite(recorded, given["sdf"], given["normal"], given["rgb"])) == elsewhere


def test_maps_and_gradients(recorded, close):
    leaves = [recorded.inputs[name].clone().requires_grad_() for name in ("sdf", "normal", "rgb")]
    maps = composite(recorded, *leaves)
    for name, value in maps.items():
        close(value, recorded.outputs[name], 1e-5, name)
    loss = maps["comp_rgb"].square().mean() + maps["opacity"].mean()
    loss = loss + maps["disparity"].square().mean() + maps["comp_normal_cam_vis"].square().mean()
    close(loss, recorded.outputs["grad_loss"], 1e-5)
    for name, gradient in zip(("sdf", "normal", "rgb"), torch.autograd.grad(loss, leaves)):
        close(gradient, recorded.grads[name], 1e-5, f"gradient of {name}")


class RecordedField(TriplaneField):
    """Answers the renderer's questions with the recorded samples."""

    def __init__(self, recorded, leaves):
        super().__init__(channels=1, hidden=1)
        self.answers, self.positions = leaves, recorded.inputs["positions"]

    def sdf_and_gradient(self, prepared, points):
        assert torch.allclose(points.view_as(self.positions), self.positions, atol=1e-5), "the renderer asks elsewhere"
        return self.answers[0].reshape(1, -1), self.answers[1].reshape(1, -1, 3)

    def color(self, prepared, points):
        return self.answers[2].reshape(1, -1, 3)


class RecordedSections(VolumeRenderer):
    """A volume renderer with given sections."""

    edges: torch.Tensor

    def _proposal(self, field, prepared, rays):
        return self.edges.view(*rays.near.shape, -1), torch.zeros_like(rays.near)


def test_renderer_as_a_whole(recorded, close):
    given = recorded.inputs
    assert torch.equal(given["t_starts"][:, 1:], given["t_ends"][:, :-1]), "sections are adjacent"
    leaves = [given[name].clone().requires_grad_() for name in ("sdf", "sdf_grad", "rgb")]
    height, _ = given["rays_d"].shape[1:3]
    renderer = RecordedSections(height, None, inverse_standard_deviation=recorded.settings["inv_std"]).train()
    renderer.edges = torch.cat([given["t_starts"], given["t_ends"][:, -1:]], dim=1)
    cameras = cameras_of(recorded)
    prepared = TriplaneField.prepare(torch.zeros(1, 6, 1, 2, 2))
    maps = renderer(RecordedField(recorded, leaves), prepared, cameras, lambda directions: given["background"])
    names = {
        "rgb": "comp_rgb", "opacity": "opacity", "depth": "depth", "disparity": "disparity", "depth_variance": "z_variance",
        "normal_world": "comp_normal", "normal_camera": "comp_normal_cam_vis",
    }  # fmt: skip
    for ours, theirs in names.items():
        close(getattr(maps, ours), recorded.outputs[theirs], 1e-5, ours)
    close(maps.sdf_gradient.flatten(0, 1), given["sdf_grad"].reshape(-1, 3), 1e-6)
    loss = maps.rgb.square().mean() + maps.opacity.mean() + maps.disparity.square().mean() + maps.normal_camera.square().mean()
    on_sdf, on_gradient, on_rgb = torch.autograd.grad(loss, leaves)
    close(on_sdf, recorded.grads["sdf"], 1e-5)
    close(on_rgb, recorded.grads["rgb"], 1e-5)
    # The recording takes the unit normal as a leaf; ours starts from the gradient: project and rescale.
    unit, length = given["normal"], given["sdf_grad"].norm(dim=-1, keepdim=True)
    tangential = recorded.grads["normal"] - unit * (recorded.grads["normal"] * unit).sum(-1, keepdim=True)
    close(on_gradient, tangential / length, 2e-5)
