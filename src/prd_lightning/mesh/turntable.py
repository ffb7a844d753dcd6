"""Turntables: an object seen from all around, as a sheet (PNG) or in motion (GIF, MP4), drawn by the project's own rasterizer.

Moving pictures show colours on the left and normals on the right. MP4 is H.264, encoded by PyAV.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import BackendUnavailableError, ConfigurationError, OutputNotWritableError
from prd_lightning.files import atomic_write
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.pictures import mesh_views, turntable_sheet
from prd_lightning.rendering import make_rasterizer

TURNTABLES = ("png", "gif", "mp4")
FRAMES, FRAME_SIZE, FRAMES_PER_SECOND = 36, 256, 15
SUPERSAMPLING = 2
VIEWS_AT_ONCE = 4


def check_turntable(kind: str) -> None:
    """Raises ConfigurationError for an unknown kind, and BackendUnavailableError if MP4 cannot be written."""
    if kind not in TURNTABLES:
        raise ConfigurationError(f"unknown kind of turntable {kind!r}; known: {', '.join(TURNTABLES)}")
    if kind == "mp4" and importlib.util.find_spec("av") is None:
        raise BackendUnavailableError("an MP4 needs PyAV: pip install 'prd_lightning[video]' (or choose gif or png)")


def save_turntable(
    mesh: Mesh, caption: str, path: str | Path, overwrite: bool = False, frames: int = FRAMES, size: int = FRAME_SIZE
) -> Path:
    """Writes a turntable in the format that the suffix names.

    Args:
        mesh: is drawn with its texture, or its vertex colours, without light.
        caption: above a sheet; moving pictures keep it in the file.
        path: ``.png``, ``.gif`` or ``.mp4``.
        overwrite: replace a file of that name.
        frames: views of a full turn in moving pictures.
        size: height of moving pictures.

    Raises:
        ConfigurationError: unknown suffix, or a number out of range.
        BackendUnavailableError: MP4 without PyAV.
        OutputExistsError, OutputNotWritableError: see ``files.atomic_write``.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    check_turntable(kind)
    if kind == "png":
        return turntable_sheet([mesh], [caption], path, overwrite=overwrite)
    if frames < 2 or size < 16 or size % 2:
        raise ConfigurationError(f"a moving turntable needs two frames and an even size of 16 or more, got {frames} and {size}")
    with atomic_write(path, overwrite) as temporary:
        write = _write_gif if kind == "gif" else _write_mp4
        write(_frames(mesh, frames, size), temporary, caption)
    return path


def _frames(mesh: Mesh, frames: int, size: int) -> Iterator[UInt8[ndarray, "height width 3"]]:
    """Colours and normals side by side, from the front around the object."""
    cameras, rasterizer = turntable_cameras(frames), make_rasterizer("auto")
    for start in range(0, frames, VIEWS_AT_ONCE):
        some = cameras.select(slice(start, start + VIEWS_AT_ONCE))
        for view in torch.cat(mesh_views(mesh, some, size, rasterizer, SUPERSAMPLING), dim=2):
            yield (view.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _write_gif(frames: Iterator[ndarray], path: Path, caption: str) -> None:
    """One palette for all frames, so that still parts do not flicker."""
    pictures = [Image.fromarray(frame) for frame in frames]
    columns = numpy.concatenate([numpy.asarray(picture)[::4, ::4] for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(columns).quantize(256, method=Image.Quantize.MEDIANCUT)
    quantized = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = round(1000 / FRAMES_PER_SECOND)
    quantized[0].save(
        path, format="GIF", save_all=True, append_images=quantized[1:], duration=duration, loop=0, comment=caption.encode()[:255]
    )


def _write_mp4(frames: Iterator[ndarray], path: Path, caption: str) -> None:
    av = _import_av()
    try:
        with av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["title"] = caption
            stream = None
            for frame in frames:
                if stream is None:
                    stream = _add_stream(container, *frame.shape[:2])
                for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    except av.error.FFmpegError as error:
        raise OutputNotWritableError(f"cannot write {path.name}: {error.strerror or error}") from error


def _add_stream(container: object, height: int, width: int) -> object:
    stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18", "preset": "medium"})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    return stream


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise BackendUnavailableError(f"an MP4 needs PyAV, which does not import here ({error})") from error
    return av
