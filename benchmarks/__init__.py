"""What the parts of the library cost: ``python -m benchmarks`` (or ``make bench``).

Every benchmark compares cases within one run, in turns, so that their ratios mean something on a busy machine too. A benchmark is
a module with a ``build(settings)`` that makes its cases; ``REGISTRY`` names them all.
"""

from benchmarks import empty_space, folding, grid_distances, meshes, normals, prompts, rasterizer, surface, training_step, waiting

REGISTRY = {
    "training_step": training_step.build,
    "normals": normals.build,
    "empty_space": empty_space.build,
    "grid_distances": grid_distances.build,
    "surface": surface.build,
    "rasterizer": rasterizer.build,
    "meshes": meshes.build,
    "folding": folding.build,
    "prompts": prompts.build,
    "waiting": waiting.build,
}
