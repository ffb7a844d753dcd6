"""UV atlases by xatlas (MIT licence), within a time limit: the work is done by a process that is ended when its time is up."""

import importlib.util
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
from jaxtyping import Float, Int
from numpy import ndarray

from prd_lightning.errors import AtlasError
from prd_lightning.mesh.mesh import Mesh

WORKER = Path(__file__).with_name("atlas_worker.py")
TEXELS_PER_PADDING = 256


@dataclass(frozen=True)
class Atlas:
    """A mesh cut into charts that lie side by side in the unit square.

    Attributes:
        vertex: [T] vertex of the mesh that each texture vertex belongs to.
        faces: [F, 3] texture vertices of each triangle, in the order of the mesh's faces.
        coordinates: [T, 2] in [0, 1], (0, 0) at the upper left.
        charts: pieces.
    """

    vertex: Int[ndarray, " corners"]
    faces: Int[ndarray, "faces 3"]
    coordinates: Float[ndarray, "corners 2"]
    charts: int


def make_atlas(mesh: Mesh, size: int, timeout: float) -> Atlas:
    """The atlas of a mesh for pictures of that size.

    Args:
        mesh: to be cut.
        size: height and width of the picture, which decides how far charts must keep apart.
        timeout: seconds.

    Raises:
        AtlasError: the time is up, xatlas is not installed, or it failed.
    """
    if importlib.util.find_spec("xatlas") is None:
        raise AtlasError("xatlas is not installed: pip install xatlas")
    request = io.BytesIO()
    padding = max(2, size // TEXELS_PER_PADDING)
    numpy.savez(request, vertices=mesh.vertices, faces=mesh.faces.astype(numpy.uint32), size=size, padding=padding)
    command = [sys.executable, "-P", str(WORKER)]
    try:
        done = subprocess.run(command, input=request.getvalue(), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise AtlasError(f"the atlas of {len(mesh.faces)} faces took more than {timeout:g} seconds") from error
    except OSError as error:
        raise AtlasError(f"the process that makes the atlas did not start: {error}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise AtlasError(f"xatlas failed with status {done.returncode}{': ' if last else ''}{''.join(last)}")
    return _atlas_from(done.stdout, mesh)


def _atlas_from(answer: bytes, mesh: Mesh) -> Atlas:
    with numpy.load(io.BytesIO(answer), allow_pickle=False) as parts:
        vertex, faces = parts["vertex"].astype(numpy.int64), parts["faces"].astype(numpy.int64)
        coordinates, charts = parts["coordinates"], int(parts["charts"])
    if not charts or faces.shape != mesh.faces.shape or not (vertex[faces] == mesh.faces).all():
        raise AtlasError(f"xatlas found no atlas of the {len(mesh.faces)} faces")
    coordinates = numpy.stack([coordinates[:, 0], 1 - coordinates[:, 1]], axis=1)  # xatlas counts upwards, pictures downwards
    return Atlas(vertex, faces, numpy.ascontiguousarray(coordinates.clip(0, 1), dtype=numpy.float32), charts)
