"""What autograd keeps alive while a training step runs: never a teacher's graph and the generator's, nor those of two teachers.

Where a teacher has a graph, the maps that it looks at are made without one. Its network runs without one too, and only what turns
maps into its input (a VAE's encoder) has a graph. That one must be gone when the teacher returns; then the generator runs again.
"""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from prd_lightning.building import build_data, build_module
from prd_lightning.configuration import compose_config

SMALLEST = (
    "teacher=triplaneturbo", "world.space=latent",  # an encoder has a graph where the gradient is one of latents
    "generator.rank=2", "generator.plane_channels=8", "generator.hidden=8", "module.unroll_steps=2",
    "world.batch_size=1", "world.volume.image_size=8", "world.volume.proposal_samples=8", "world.volume.fine_samples=6",
    "world.mesh.resolution=8", "world.mesh.image_size=8", "world.stable_diffusion.image_size=16", "world.mvdream.image_size=16",
)  # fmt: skip


class Kept:
    """One tensor that autograd keeps; it lives exactly as long as autograd needs it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class LiveGraphs:
    """Bytes that autograd keeps at this moment, by who ran the forward pass; each storage counts once."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.owned = {value.untyped_storage().data_ptr() for value in parameters}
        self.kept: dict[str, weakref.WeakSet[Kept]] = {}

    def bytes(self, name: str) -> int:
        storages = [kept.value.untyped_storage() for kept in self.kept.get(name, ())]
        return sum({part.data_ptr(): part.nbytes() for part in storages if part.data_ptr() not in self.owned}.values())

    def watch(self, name: str, function: Callable) -> Callable:
        """``function``, with what autograd keeps of it counted under ``name``."""
        live = self.kept.setdefault(name, weakref.WeakSet())

        def pack(value: Tensor) -> Kept:
            live.add(kept := Kept(value.detach()))  # the value itself would hold the graph that holds it
            return kept

        def watched(*given: Any, **named: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.value):
                return function(*given, **named)

        return watched


@pytest.fixture(scope="module")
def moments() -> list[tuple[str, dict[str, int]]]:
    """What was alive at every telling moment of two unroll steps: name of the moment, bytes by owner."""
    torch.manual_seed(0)
    config = compose_config(SMALLEST)
    module, batches = build_module(config).train(), iter(build_data(config).train_dataloader())
    module.log = lambda *_, **__: None
    module._trainer = type("Trainer", (), {"global_step": 0, "current_epoch": 0})()
    graphs, seen = LiveGraphs(list(module.parameters())), []
    owners = ["generator", *module.teachers]

    def note(moment: str) -> None:
        seen.append((moment, {name: graphs.bytes(name) for name in owners}))

    module.unroll = graphs.watch("generator", module.unroll)
    for name, teacher in module.teachers.items():
        teacher.map_gradients = graphs.watch(name, teacher.map_gradients)
        teacher.unet.register_forward_pre_hook(lambda *_, name=name: note(f"{name} network"))
        teacher.unet.register_forward_hook(lambda *_, name=name: note(f"{name} network"))
    first = next(module.generator.unet.parameters())
    assert not first.requires_grad
    for step in range(2):
        note(f"step {step}")
        loss = module.training_step(next(batches), step)
        note("backward")
        module.generator.decoder.conv_out.bias.register_hook(lambda gradient: note("in the backward pass"))
        loss.backward()
        del loss
    note("end")
    return seen


def at(moments: list[tuple[str, dict[str, int]]], name: str) -> list[dict[str, int]]:
    found = [kept for moment, kept in moments if moment == name]
    assert found, f"nothing was seen at {name!r}"
    return found


def test_the_generator_has_no_graph_while_teachers_have_theirs(moments):
    """Its bytes are what is alive just before and after every teacher's network, where an encoder's graph waits."""
    for teacher in TEACHERS:
        assert [kept["generator"] for kept in at(moments, f"{teacher} network")] == [0] * 4
    for kept in at(moments, "backward"):
        assert kept["generator"] > 100_000


def gradients(separate: bool, precision: torch.dtype) -> list[Tensor]:
    """Of two unroll steps."""
    torch.manual_seed(0)
    config = compose_config([*SMALLEST, f"module.separate_graphs={separate}"])
    module, batches = build_module(config).train(), iter(build_data(config).train_dataloader())
    module.log = lambda *_, **__: None
    module._trainer = type("Trainer", (), {"global_step": 0, "current_epoch": 0})()
    for step in range(2):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = module.training_step(next(batches), step)
        loss.backward()
    return [value.grad for value in module.trainable_parameters()]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_do_not_depend_on_whether_graphs_are_kept_apart(precision):
    """Without a graph, attention and sums are computed in another order; a gradient may be nothing but that rounding."""
    apart, together = gradients(True, precision), gradients(False, precision)
    assert sum(bool(value.any()) for value in together) > 100
    rounding = 1e-9 * max(value.abs().max() for value in together)
    for one, other in zip(apart, together, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max() + rounding


TEACHERS = ("stable_diffusion", "mvdream", "richdreamer_nd")


def test_no_teacher_s_graph_is_alive_when_the_generator_s_is_walked_back(moments):
    for kept in at(moments, "backward"):
        assert kept["generator"] > 100_000
        assert [kept[name] for name in TEACHERS] == [0, 0, 0]
    assert all(kept[name] == 0 for kept in at(moments, "in the backward pass") for name in TEACHERS)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_one_teacher_s_graph_is_alive_at_a_time_and_its_network_has_none(moments, teacher):
    before, after, *_ = at(moments, f"{teacher} network")
    assert all(before[name] == 0 for name in TEACHERS if name != teacher)
    assert after[teacher] == before[teacher], "the network must keep nothing"
    assert (before[teacher] > 1000) == (teacher != "richdreamer_nd"), "an encoder's graph waits for the gradient; maps need none"


def test_nothing_of_an_unroll_step_is_alive_in_the_next(moments):
    assert set(at(moments, "step 1")[0].values()) == {0} and set(at(moments, "end")[0].values()) == {0}
