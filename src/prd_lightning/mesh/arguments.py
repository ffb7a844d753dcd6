"""The mesh options as flags of the command line."""

import argparse
from typing import Any

from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh.axes import AXES, Placement
from prd_lightning.mesh.options import HOLE_EDGES, REMESH_PERCENT, SMOOTHING_STEPS, TEXTURE_SIZES, TEXTURED_FACES, MeshOptions

DEFAULTS = MeshOptions()


def add_mesh_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the groups ``clean-up`` and ``texture``."""
    clean = parser.add_argument_group("clean-up")
    clean.add_argument(
        "--target-faces", type=int, metavar="N",
        help=f"simplify to at most so many faces (default: {TEXTURED_FACES} with a texture, else none is taken away)",
    )
    clean.add_argument(
        "--smallest-component", type=float, default=DEFAULTS.smallest_component, metavar="SHARE",
        help="drop loose parts with fewer faces than this share of the largest part (default %(default)s; 0 keeps all)",
    )
    clean.add_argument(
        "--fill-holes", type=int, nargs="?", const=HOLE_EDGES, default=0, metavar="EDGES",
        help=f"close holes of up to so many edges ({HOLE_EDGES} where no number is given)",
    )
    clean.add_argument(
        "--smooth", type=int, nargs="?", const=SMOOTHING_STEPS, default=0, metavar="STEPS",
        help=f"smooth without shrinking, by Taubin's method ({SMOOTHING_STEPS} where no number is given)",
    )
    clean.add_argument(
        "--remesh", type=float, nargs="?", const=REMESH_PERCENT, metavar="PERCENT",
        help="divide the surface into nearly equilateral triangles with edges of so many percent of the object's diagonal "
        f"({REMESH_PERCENT:g} where no number is given)",
    )
    texture = parser.add_argument_group("texture (GLB and OBJ)")
    texture.add_argument("--no-texture", action="store_true", help="colours at the vertices instead")
    texture.add_argument(
        "--texture-size", default=DEFAULTS.texture_size, metavar="PIXELS",
        help=f"height and width, {TEXTURE_SIZES[0]} to {TEXTURE_SIZES[1]} (default %(default)s)",
    )
    texture.add_argument("--normal-map", action="store_true", help="bake the normals of the full surface as well")
    texture.add_argument(
        "--texture-timeout", type=float, default=DEFAULTS.texture_timeout, metavar="SECONDS",
        help="time that the atlas may take before the mesh gets colours at its vertices instead (default %(default)g)",
    )


def add_placement_arguments(group: Any) -> None:
    """Adds ``--scale``, ``--up`` and ``--front`` to a parser or group."""
    group.add_argument(
        "--scale", type=float, metavar="METRES", help="length of the object's longest side (default: the box of 2 units is 2 m)"
    )
    known = ", ".join(AXES)
    group.add_argument("--up", metavar="AXIS", help=f"axis of the file that points up: {known} (default: the format's own)")
    group.add_argument("--front", metavar="AXIS", help="axis of the file that the object faces (default: the format's own)")


def mesh_options(arguments: argparse.Namespace, can_have_texture: bool) -> MeshOptions:
    """The options that the flags ask for.

    Args:
        arguments: parsed, with ``--resolution`` among them.
        can_have_texture: whether the format has a place for one.

    Raises:
        ConfigurationError: a number is out of range, or a normal map is asked for where there is no texture.
    """
    texture = can_have_texture and not arguments.no_texture
    if arguments.normal_map and not texture:
        reason = "--no-texture was given" if can_have_texture else "the format has no place for one; choose glb or obj"
        raise ConfigurationError(f"--normal-map needs a texture, but {reason}")
    return MeshOptions(
        resolution=arguments.resolution,
        target_faces=arguments.target_faces,
        smallest_component=arguments.smallest_component,
        fill_holes=arguments.fill_holes,
        smooth=arguments.smooth,
        remesh=arguments.remesh,
        texture=texture,
        texture_size=arguments.texture_size,
        normal_map=arguments.normal_map,
        texture_timeout=arguments.texture_timeout,
    )


def placement_of(arguments: argparse.Namespace) -> Placement:
    """The placement that the flags ask for.

    Raises:
        ConfigurationError: an axis is unknown, up and front lie on one axis, or the size is not positive.
    """
    return Placement(arguments.scale, arguments.up, arguments.front)
