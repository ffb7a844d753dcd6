"""The mesh renderer: a sphere in closed form, gradients to the planes, empty and full scenes."""

import math

import pytest
import torch

from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.field import TriplaneField
from prd_lightning.rendering import MeshRenderer, VolumeRenderer, WhiteBackground, vertex_normals
from prd_lightning.rendering.maps import scale_gradient

WHITE = WhiteBackground()
MAPS = ("rgb", "opacity", "depth", "disparity", "normal_world", "normal_camera")


def scene(scale=0.0, scenes=1, dtype=torch.float32, radius=0.537):
    """Field and planes; without planes a sphere that meets no grid point."""
    field = TriplaneField(channels=2, hidden=6, sphere_radius=radius).to(dtype)
    return field, (scale * torch.randn(scenes, 6, 2, 4, 4, dtype=dtype)).requires_grad_()


def double_cameras(views):
    cameras = turntable_cameras(views)
    return type(cameras)(*(getattr(cameras, name).double() for name in cameras.__dataclass_fields__))


def renderer(resolution=12, image_size=24, dtype=torch.float32, **settings):
    return MeshRenderer(resolution, image_size, rasterizer="torch", **settings).to(dtype)


def test_sphere_in_closed_form():
    field, planes = scene()
    cameras, size = turntable_cameras(2), 48
    maps = renderer(48, size, depth="ray")(field, field.prepare(planes), cameras, WHITE)
    origins, directions = cameras.rays(size, size)
    closest = -(origins * directions).sum(-1)
    miss = (origins + closest[..., None] * directions).norm(dim=-1)
    radius = field.sphere_radius
    hit = closest - (radius**2 - miss.square()).clamp_min(0).sqrt()
    inside, outside = miss < radius - 0.07, miss > radius + 0.07
    assert (maps.opacity[inside] == 1).all() and (maps.opacity[outside] == 0).all()
    torch.testing.assert_close(maps.depth[..., 0][inside], hit[inside], atol=0.01, rtol=0)
    normal = torch.nn.functional.normalize(origins + hit[..., None] * directions, dim=-1)
    assert ((maps.normal_world * normal).sum(-1)[inside] > 0.99).all()
    torch.testing.assert_close(maps.rgb[inside], torch.full_like(maps.rgb[inside], 0.5))
    assert (maps.rgb[outside] == 1).all()
    near, span = cameras.distance[0] - math.sqrt(3), 2 * math.sqrt(3)
    torch.testing.assert_close(maps.disparity[..., 0][inside], 1 - (hit[inside] - near) / span, atol=0.01, rtol=0)
    torch.testing.assert_close(
        maps.normal_camera[outside], torch.tensor([0.5, 0.5, 1.0]).expand(int(outside.sum()), 3), atol=1e-6, rtol=0
    )
    assert maps.empty_mesh_count == 0 and maps.sdf_gradient is None


def test_both_renderers_agree():
    field, planes = scene(0.4)
    prepared, cameras, size = field.prepare(planes.detach()), turntable_cameras(3), 32
    with torch.no_grad():
        mesh = renderer(40, size, depth="ray")(field, prepared, cameras, WHITE)
        volume = VolumeRenderer(size, None, proposal_samples=64, fine_samples=64).eval()(field, prepared, cameras, WHITE)
    solid = (mesh.opacity == 1) & (volume.opacity > 0.97)
    assert solid.float().mean() > 0.08
    for name, tolerance in (("rgb", 0.03), ("normal_camera", 0.06), ("depth", 0.05), ("disparity", 0.03)):
        difference = (getattr(mesh, name) - getattr(volume, name)).abs()[solid[..., 0]]
        assert float(difference.mean()) < tolerance, name


def test_clip_depth_is_about_the_distance_less_the_near_plane():
    field, planes = scene()
    cameras, size = turntable_cameras(1), 25
    clip, ray = (renderer(24, size, depth=kind)(field, field.prepare(planes), cameras, WHITE) for kind in ("clip", "ray"))
    middle = (0, size // 2, size // 2, 0)
    expected = 3.0 - field.sphere_radius
    assert float(ray.depth[middle].detach()) == pytest.approx(expected, abs=0.01)
    assert float(clip.depth[middle].detach()) == pytest.approx(expected - 0.2, abs=0.01)


def loss_of(maps):
    return maps.normal_camera.square().mean() + maps.disparity.square().mean() + maps.opacity.mean() + maps.rgb.square().mean()


def test_gradient_reaches_planes_and_every_network():
    field, planes = scene(0.3, scenes=2)
    maps = renderer()(field, field.prepare(planes), turntable_cameras(4), WHITE)
    assert all(getattr(maps, name).shape[:3] == (4, 24, 24) for name in MAPS)
    loss_of(maps).backward()
    assert (planes.grad.abs().sum(dim=(2, 3, 4)) > 0).all() and torch.isfinite(planes.grad).all()
    for name in ("sdf_network", "texture_network", "deformation_network"):
        for parameter in getattr(field, name).parameters():
            assert parameter.grad.abs().sum() > 0 and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("name", ["rgb", "opacity", "disparity", "normal_camera", "depth"])
def test_gradient_against_finite_differences(name):
    """Planes through iso-surface, rasterizer and antialiasing to each map (factor one, float64, along a random direction)."""
    field, planes = scene(0.3, dtype=torch.float64)
    meshes, cameras = renderer(6, 14, torch.float64, sdf_gradient_scale=1.0), double_cameras(2)
    weight = torch.randn(2, 14, 14, 1, dtype=torch.float64)

    def loss(planes):
        return (getattr(meshes(field, field.prepare(planes), cameras, WHITE), name) * weight).sum()

    (gradient,) = torch.autograd.grad(loss(planes), planes)
    direction, step = torch.randn_like(planes), 1e-7
    with torch.no_grad():
        difference = float(loss(planes + step * direction) - loss(planes - step * direction)) / (2 * step)
    assert abs(difference) > 1e-4
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize("factor", [0.001, 0.5])
def test_gradient_of_geometry_is_scaled(factor):
    """Geometry planes get the factor, colours on a still surface the full gradient."""
    field, planes = scene(0.3, dtype=torch.float64)
    gradients = {}
    for scale in (1.0, factor):
        maps = renderer(8, 16, torch.float64, sdf_gradient_scale=scale)(field, field.prepare(planes), double_cameras(2), WHITE)
        (gradients[scale],) = torch.autograd.grad(loss_of(maps), planes)
    geometry, texture = slice(0, 3), slice(3, 6)
    torch.testing.assert_close(gradients[factor][:, geometry], factor * gradients[1.0][:, geometry])
    torch.testing.assert_close(gradients[factor][:, texture], gradients[1.0][:, texture])
    assert gradients[1.0][:, geometry].abs().max() > 1e-6
    assert MeshRenderer(4, 4).sdf_gradient_scale == 0.001


def test_scaling_keeps_the_value():
    value = torch.randn(5, dtype=torch.float64, requires_grad=True)
    scaled = scale_gradient(value, 0.25)
    torch.testing.assert_close(scaled, value)
    (gradient,) = torch.autograd.grad((scaled * torch.arange(5.0)).sum(), value)
    torch.testing.assert_close(gradient, 0.25 * torch.arange(5.0, dtype=torch.float64))


class ShiftedField(TriplaneField):
    """A field whose signed distances on the grid are raised by an amount for each scene; a large one empties the scene."""

    def __init__(self, shifts):
        super().__init__(channels=2, hidden=6, sphere_radius=0.537)
        self.shifts = shifts

    def grid_sdf(self, prepared, resolution):
        return super().grid_sdf(prepared, resolution) + torch.tensor(self.shifts)[:, None]


def test_empty_scenes_show_the_background_and_poison_nothing():
    """One of two scenes has no surface: it is counted, the other renders as alone, and every gradient is there and finite."""
    field = ShiftedField([10.0, 0.0])
    planes = (0.2 * torch.randn(2, 6, 2, 4, 4)).requires_grad_()
    prepared, cameras, backdrop = field.prepare(planes), turntable_cameras(4), torch.rand(4, 24, 24, 3)
    maps = renderer()(field, prepared, cameras, lambda directions: backdrop)
    assert maps.empty_mesh_count == 1
    torch.testing.assert_close(maps.rgb[:2], backdrop[:2])
    assert (maps.opacity[:2] == 0).all() and (maps.disparity[:2] == 0).all()
    torch.testing.assert_close(maps.normal_camera[:2], torch.tensor([0.5, 0.5, 1.0]).expand(2, 24, 24, 3))
    assert (maps.opacity[2:] > 0).any()
    loss_of(maps).backward()
    assert torch.isfinite(planes.grad).all()
    assert (planes.grad[0] == 0).all() and planes.grad[1].abs().sum() > 0
    parameters = [*field.sdf_network.parameters(), *field.texture_network.parameters()]
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


def test_only_empty_scenes_keep_the_graph_connected():
    field, planes = scene(0.1, scenes=2, radius=-1.0)
    maps = renderer()(field, field.prepare(planes), turntable_cameras(2), WHITE)
    assert maps.empty_mesh_count == 2 and (maps.rgb == 1).all()
    loss_of(maps).backward()
    assert torch.equal(planes.grad, torch.zeros_like(planes))


def test_full_scenes_are_boxes():
    """Everything inside: the surface is the box itself, seen from all sides, with finite gradients."""
    field, planes = scene(0.1, radius=5.0)
    maps = renderer(8, 32)(field, field.prepare(planes), turntable_cameras(2, distance=4.0), WHITE)
    assert maps.empty_mesh_count == 0
    assert maps.opacity[:, 16, 16].min() == 1 and maps.opacity.mean() > 0.3
    loss_of(maps).backward()
    assert torch.isfinite(planes.grad).all()


def test_extraction_from_known_values_is_the_same():
    field, planes = scene(0.3)
    meshes, prepared = renderer(), field.prepare(planes)
    (first, faces), (second, same_faces) = (
        meshes.extract(field, prepared, sdf)[0] for sdf in (None, field.grid_sdf(prepared, meshes.resolution))
    )
    assert torch.equal(faces, same_faces) and torch.equal(first, second)
    # The deformation moves grid points by half a cell at most, so vertices are that near to the zero level.
    assert field.sdf(prepared, first[None]).abs().max() < 1.0 / meshes.resolution


def test_vertex_normals_are_weighted_by_area():
    vertices = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0.0, 1, 0], [0.0, 0, 3.0]], dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    normals = vertex_normals(vertices, faces)
    torch.testing.assert_close(normals[1], torch.tensor([0.0, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(normals[3], torch.tensor([1.0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(normals[0], torch.tensor([3.0, 0, 1], dtype=torch.float64) / math.sqrt(10))
    assert torch.autograd.gradcheck(lambda value: vertex_normals(value, faces), vertices)


def test_backgrounds_with_the_focal_length_of_the_small_picture():
    field, planes = scene()
    cameras, seen = turntable_cameras(1), []

    def background(directions):
        seen.append(directions)
        return torch.ones_like(directions)

    for size in (None, 6):
        renderer(4, 24, background_focal_size=size)(field, field.prepare(planes), cameras, background)
    assert torch.equal(seen[0], cameras.rays(24, 24)[1])
    assert torch.equal(seen[1], cameras.rays(24, 24, focal_height=6)[1])
    assert (seen[0] - seen[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "named"), [({"depth": "z"}, "depth"), ({"image_size": 0}, "image_size"), ({"resolution": 1}, "resolution")]
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        MeshRenderer(**settings)
