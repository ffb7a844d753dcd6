"""Run as a program of its own: makes a UV atlas with xatlas, from arrays on the standard input to arrays on the standard output.

xatlas has no time limit and cannot be interrupted from Python; a process can be ended. Nothing of the package is imported here,
so that it starts at once.
"""

import io
import sys

import numpy


def main() -> int:
    """Reads ``vertices``, ``faces``, ``size``, ``padding``; writes ``vertex``, ``faces``, ``coordinates``, ``charts``."""
    import xatlas

    given = numpy.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = int(given["size"]), int(given["padding"]), True
    atlas.add_mesh(given["vertices"], given["faces"])
    atlas.generate(xatlas.ChartOptions(), packing)
    vertex, faces, coordinates = atlas.get_mesh(0)
    # xatlas divides by width and height of its picture; one factor keeps texels square.
    coordinates = coordinates * numpy.float32([atlas.width, atlas.height]) / max(atlas.width, atlas.height, 1)
    result = io.BytesIO()
    numpy.savez(result, vertex=vertex, faces=faces, coordinates=coordinates.astype(numpy.float32), charts=atlas.chart_count)
    sys.stdout.buffer.write(result.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
