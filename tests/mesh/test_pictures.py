"""Sheets: every view is in its place and keeps its colour, small pictures are enlarged; meshes are drawn as they stand."""

import numpy
import pytest
import torch
from PIL import Image

from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import ConfigurationError, OutputExistsError
from prd_lightning.mesh import Mesh, preview_sheet, turntable_sheet
from prd_lightning.mesh.pictures import mesh_views
from prd_lightning.rendering import MeshRenderer, RenderedMaps, WhiteBackground


def flat_maps(*colors: tuple[float, float, float], size: int) -> RenderedMaps:
    """One view of each colour; normals are the colours' complements."""
    rgb = torch.tensor(colors, dtype=torch.float32)[:, None, None, :].expand(-1, size, size, 3).contiguous()
    one = torch.ones(len(colors), size, size, 1)
    return RenderedMaps(rgb=rgb, opacity=one, depth=one, disparity=one, normal_world=rgb, normal_camera=1 - rgb)


def pixels(path) -> numpy.ndarray:
    return numpy.asarray(Image.open(path))


@pytest.mark.parametrize(("size", "cell"), [(20, 140), (128, 128), (200, 200)])
def test_layout_and_enlargement(tmp_path, size, cell):
    maps = flat_maps((1, 0, 0), (0, 1, 0), (0, 0, 1), size=size)
    path = preview_sheet([maps, maps], ["first", "second"], tmp_path / "sheet.png")
    sheet = pixels(path)
    assert sheet.shape[1] == 3 * cell
    block = sheet.shape[0] // 2
    caption = block - 2 * cell
    assert 20 <= caption <= 40 and sheet.shape[0] == 2 * block
    for top in (0, block):
        assert (sheet[top : top + caption] < 128).any()  # ink
        for view, color in enumerate(numpy.eye(3, dtype=int) * 255):
            columns = slice(view * cell, (view + 1) * cell)
            assert (sheet[top + caption : top + caption + cell, columns] == color).all()
            assert (sheet[top + caption + cell : top + block, columns] == 255 - color).all()


def test_captions_differ_and_long_ones_are_wrapped(tmp_path):
    maps = flat_maps((1, 1, 1), size=128)
    short = pixels(preview_sheet([maps], ["a cone"], tmp_path / "short.png"))
    other = pixels(preview_sheet([maps], ["a cube"], tmp_path / "other.png"))
    longer = pixels(preview_sheet([maps], ["a cone " * 6], tmp_path / "long.png"))
    endless = pixels(preview_sheet([maps], ["a cone " * 60], tmp_path / "endless.png"))
    assert (short != other).any()
    assert short.shape[0] < longer.shape[0] <= endless.shape[0] <= short.shape[0] + 2 * 22
    assert longer.shape[1] == short.shape[1]


def test_values_out_of_range_and_nan_do_not_wrap_around(tmp_path):
    maps = flat_maps((1.7, -0.4, float("nan")), size=128)
    assert pixels(preview_sheet([maps], ["odd"], tmp_path / "sheet.png"))[100, 64].tolist() == [255, 0, 0]


def test_previews_replace_and_turntables_do_not(tmp_path, wedge):
    path = tmp_path / "sheet.png"
    preview_sheet([flat_maps((1, 0, 0), size=8)], ["first"], path)
    preview_sheet([flat_maps((0, 1, 0), size=8)], ["second"], path)
    assert pixels(path)[100, 64].tolist() == [0, 255, 0]
    with pytest.raises(OutputExistsError):
        turntable_sheet([wedge], ["wedge"], path, views=1, size=16)


def test_as_many_captions_as_objects(tmp_path):
    maps = flat_maps((1, 0, 0), size=8)
    for rows, captions in (([], []), ([maps], []), ([maps], ["a", "b"])):
        with pytest.raises(ConfigurationError, match="as many captions"):
            preview_sheet(rows, captions, tmp_path / "sheet.png")


def test_a_mesh_is_drawn_as_it_stands(wedge):
    """From the front, +x: right is +y, up is +z; red grows towards the camera, green to the right, blue upwards."""
    rgb, normal = mesh_views(wedge, turntable_cameras(4, elevation=0.0), size=64)
    front, right, back, left = rgb
    covered = (front.amin(dim=-1) < 0.99).nonzero()
    top, bottom = covered[:, 0].min() + 3, covered[:, 0].max() - 3
    assert front[top, 32, 2] > front[bottom, 32, 2] + 0.2
    assert front[bottom, 40, 1] > front[bottom, 24, 1] + 0.05
    assert front[bottom, 32, 0] > back[bottom, 32, 0] + 0.2
    # From +y the front of the wedge, its low end, is on the left.
    heights = (right.amin(dim=-1) < 0.99).sum(dim=0)
    used = heights.nonzero()[:, 0]
    assert heights[used[:4]].sum() < heights[used[-4:]].sum()
    assert torch.allclose(normal[:, 0, 0], torch.tensor([0.5, 0.5, 1.0]).expand(4, 3))


def test_a_mesh_looks_like_the_renderers_picture_of_its_field():
    from prd_lightning.field import TriplaneField
    from prd_lightning.mesh import extract_mesh

    field = TriplaneField(channels=4, hidden=16)
    prepared = field.prepare(torch.randn(1, 6, 4, 8, 8))
    cameras = turntable_cameras(3)
    with torch.no_grad():
        expected = MeshRenderer(resolution=24, image_size=48, rasterizer="torch")(field, prepared, cameras, WhiteBackground())
    rgb, normal = mesh_views(extract_mesh(field, prepared, 24), cameras, size=48)
    assert (rgb - expected.rgb).abs().mean() < 0.01
    assert (normal - expected.normal_camera).abs().mean() < 0.03
    assert (expected.rgb - 1).abs().mean() > 0.05


def test_turntable_of_meshes_and_maps(tmp_path, wedge):
    things: list[Mesh | RenderedMaps] = [wedge, flat_maps((0, 0, 1), (1, 0, 0), size=128)]
    sheet = pixels(turntable_sheet(things, ["mesh", "maps"], tmp_path / "sheet.png", views=2, size=128))
    assert sheet.shape[1] == 256 and sheet.shape[0] > 4 * 128
    assert (sheet[: sheet.shape[0] // 2] != 255).any()
