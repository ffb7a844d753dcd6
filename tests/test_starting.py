"""A new training begins with the weights of a generator."""

from functools import partial
from pathlib import Path

import pytest
import torch
from untrained import ARCHITECTURE, save_untrained

from prd_lightning.architecture import Architecture
from prd_lightning.checkpoints import GENERATOR_FILE, save_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer
from prd_lightning.starting import start_from
from prd_lightning.tinyworld.oracle import OracleTeacher


@pytest.fixture
def module() -> PRDModule:
    teachers = {"oracle": OracleTeacher(renderers=("mesh",))}
    return PRDModule(ARCHITECTURE, {"mesh": MeshRenderer(8, 8)}, teachers, partial(torch.optim.SGD, lr=1e-3))


def test_all_that_is_trained_comes_from_the_file(module: PRDModule, tmp_path: Path):
    own = module.trainable_state_dict()
    tensors = {name: torch.randn_like(value) for name, value in own.items()}
    save_generator(tmp_path / "checkpoints" / "last" / GENERATOR_FILE, tensors, module.architecture.to_dict())
    start_from(module, tmp_path)
    assert own and all(torch.equal(value, tensors[name]) for name, value in module.trainable_state_dict().items())
    assert all(value.requires_grad for value in module.trainable_parameters())


def test_a_generator_without_a_background_leaves_it(module: PRDModule, tmp_path: Path):
    before = {name: value.detach().clone() for name, value in module.trainable_state_dict().items()}
    start_from(module, save_untrained(tmp_path))
    changed = {name for name, value in module.trainable_state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"generator", "field"}


def test_what_does_not_fit_is_refused(module: PRDModule, tmp_path: Path):
    with pytest.raises(MissingWeightsError, match="no file or folder"):
        start_from(module, tmp_path / "nothing")
    other = Architecture(**{**ARCHITECTURE.to_dict(), "rank": 4})
    save_generator(tmp_path / GENERATOR_FILE, {}, other.to_dict())
    with pytest.raises(CheckpointFormatError, match="the checkpoint has rank=4 but this run has rank=2"):
        start_from(module, tmp_path / GENERATOR_FILE)
