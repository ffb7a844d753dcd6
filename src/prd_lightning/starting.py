"""A new training that begins with the weights of an earlier one, or with published ones."""

import logging
from pathlib import Path

from prd_lightning.architecture import Architecture
from prd_lightning.formats.published import read_generator
from prd_lightning.generator import copy_state
from prd_lightning.module import PRDModule
from prd_lightning.pipeline import find_generator

logger = logging.getLogger(__name__)


def start_from(module: PRDModule, location: str | Path) -> None:
    """Loads the weights of a generator into ``module``, as they are in its file (the average, where a run kept one).

    Optimizer, schedules and the place in the prompts begin anew. A generator without a background leaves the module's as it is.

    Args:
        module: still whole in every process.
        location: as of ``TextToMeshPipeline.from_pretrained``.

    Raises:
        MissingWeightsError: nothing is there.
        CheckpointFormatError: the file is damaged or foreign, or of another architecture; the message names both values.
    """
    path = find_generator(location)
    tensors, header = read_generator(path)
    module.architecture.check_same(Architecture.from_dict(header))
    own = module.trainable_state_dict()
    if not any(name.startswith("background.") for name in tensors):
        own = {name: value for name, value in own.items() if not name.startswith("background.")}
    copy_state(own, tensors)
    logger.info("beginning with the weights of %s", path)
