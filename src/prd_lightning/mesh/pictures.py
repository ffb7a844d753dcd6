"""Picture sheets: views side by side, a row of colours and a row of normals for each object, its prompt above them."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from prd_lightning.cameras import Cameras, turntable_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.files import atomic_write
from prd_lightning.mesh.mesh import Mesh, Texture
from prd_lightning.mesh.tangents import tangent_frames
from prd_lightning.rendering import Rasterizer, RenderedMaps, make_rasterizer, normal_to_camera, resize_map

SMALLEST_CELL = 128
SUPERSAMPLING = 3
FONT_SIZE, MARGIN = 16, 6
PAPER, INK = (255, 255, 255), (0, 0, 0)

Pictures = Float[Tensor, "views height width 3"]


def preview_sheet(rows: Sequence[RenderedMaps], prompts: Sequence[str], path: str | Path) -> Path:
    """Writes one PNG with the colours and the normals of every prompt's views; a file of that name is replaced.

    Args:
        rows: maps of V views for each prompt.
        prompts: captions.
        path: of the PNG.
    """
    return picture_sheet([(maps.rgb, maps.normal_camera) for maps in rows], prompts, path, overwrite=True)


def turntable_sheet(
    objects: Sequence[Mesh | RenderedMaps],
    captions: Sequence[str],
    path: str | Path,
    views: int = 8,
    size: int = 192,
    overwrite: bool = False,
) -> Path:
    """Writes one PNG with objects seen from all around, beginning at the front.

    Args:
        objects: meshes, which are drawn with their texture or vertex colours, or maps that a renderer made of a field.
        captions: one for each object.
        path: of the PNG.
        views: of a mesh.
        size: height and width of a view of a mesh.
        overwrite: replace a file of that name.
    """
    cameras = turntable_cameras(views)
    pictures = [
        (thing.rgb, thing.normal_camera) if isinstance(thing, RenderedMaps) else mesh_views(thing, cameras, size)
        for thing in objects
    ]
    return picture_sheet(pictures, captions, path, overwrite)


@torch.no_grad()
def mesh_views(
    mesh: Mesh, cameras: Cameras, size: int, rasterizer: Rasterizer | None = None, supersampling: int = SUPERSAMPLING
) -> tuple[Pictures, Pictures]:
    """Colours on white, without light, and camera normals of a mesh, both [V, size, size, 3] in [0, 1].

    A mesh with a texture shows it, and its normal map where it has one.
    """
    rasterizer = rasterizer or make_rasterizer("auto", cameras.camera_to_world.device)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    clip = torch.einsum("vij,nj->vni", cameras.model_view_projection(), functional.pad(vertices, (0, 1), value=1.0))
    fine = size * supersampling
    raster = rasterizer.rasterize(clip, faces, (fine, fine))
    covered = (raster[..., 3:] > 0).to(vertices)
    if mesh.texture is None:
        attributes = torch.cat([torch.from_numpy(mesh.colors), torch.from_numpy(mesh.normals)], dim=-1)
        rgb, normal = rasterizer.interpolate(attributes[None], raster, faces).split(3, dim=-1)
    else:
        rgb, normal = _textured(mesh, mesh.texture, rasterizer, raster)
    rgb = torch.where(covered > 0, rgb, torch.ones(3))
    normal = normal_to_camera(functional.normalize(normal, dim=-1), covered, cameras)
    return resize_map(rgb, size), resize_map(normal, size)


def _textured(mesh: Mesh, texture: Texture, rasterizer: Rasterizer, raster: Tensor) -> tuple[Tensor, Tensor]:
    """Colours and world normals from the pictures, [V, H, W, 3] each."""
    normals = torch.from_numpy(mesh.normals)[texture.vertex]
    columns = [torch.from_numpy(texture.coordinates), normals]
    columns += [] if texture.tangents is None else [torch.from_numpy(texture.tangents)]
    surface = rasterizer.interpolate(torch.cat(columns, dim=-1)[None], raster, torch.from_numpy(texture.faces))
    coordinates, normal = surface[..., :2].contiguous(), surface[..., 2:5]
    rgb = rasterizer.texture(torch.from_numpy(texture.color)[None].float() / 255, coordinates)
    if texture.normal is None or texture.tangents is None:
        return rgb, normal
    local = rasterizer.texture(torch.from_numpy(texture.normal)[None].float() / 255, coordinates) * 2 - 1
    frames = tangent_frames(normal.reshape(-1, 3), surface[..., 5:].reshape(-1, 4))
    return rgb, (frames @ local.reshape(-1, 3, 1)).view_as(local)


def picture_sheet(
    objects: Sequence[Sequence[Pictures]], captions: Sequence[str], path: str | Path, overwrite: bool = False
) -> Path:
    """Writes one PNG: for each object its caption and its rows of pictures."""
    if not objects or len(objects) != len(captions):
        raise ConfigurationError(
            f"a sheet needs as many captions as objects and at least one, got {len(captions)} and {len(objects)}"
        )
    blocks = [_block(rows, caption) for rows, caption in zip(objects, captions)]
    sheet = Image.new("RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    with atomic_write(path, overwrite) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def _block(rows: Sequence[Pictures], caption: str) -> Image.Image:
    """One object: the caption, then one line of pictures for each of ``rows``."""
    strips = [_strip(pictures) for pictures in rows]
    font = ImageFont.load_default(FONT_SIZE)
    width = strips[0].width
    lines = _wrap(caption, font, width - 2 * MARGIN)
    line_height = FONT_SIZE + MARGIN
    caption_height = len(lines) * line_height + MARGIN
    block = Image.new("RGB", (width, caption_height + sum(strip.height for strip in strips)), PAPER)
    draw = ImageDraw.Draw(block)
    for index, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + index * line_height), line, fill=INK, font=font)
    top = caption_height
    for strip in strips:
        block.paste(strip, (0, top))
        top += strip.height
    return block


def _strip(pictures: Pictures) -> Image.Image:
    """Views side by side; small ones are enlarged by a whole factor, pixel by pixel, so that they stay what they are."""
    values = torch.nan_to_num(pictures.detach().float().cpu()).clamp(0, 1)
    joined = torch.cat(list((values * 255).round().to(torch.uint8)), dim=1)
    factor = -(-SMALLEST_CELL // joined.shape[0])
    picture = Image.fromarray(joined.contiguous().numpy())
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST) if factor > 1 else picture


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels, three at most; a longer text ends in dots."""
    lines, current = [], ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if current and font.getlength(longer) > width:
            lines, current = [*lines, current], word
        else:
            current = longer
    lines.append(current)
    if len(lines) > 3:
        lines = [*lines[:2], f"{lines[2]} ..."]
    return lines
