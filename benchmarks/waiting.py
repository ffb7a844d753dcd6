"""Which share of a training step is spent waiting for prompts, cameras and encoded text."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measuring import Result, Settings, Stopwatch, make_cases
from benchmarks.training_step import SMALLEST
from prd_lightning.building import build_data, build_module
from prd_lightning.configuration import compose_config
from prd_lightning.data import PromptBatch
from prd_lightning.module import PRDModule, surrogate_loss
from prd_lightning.text import PromptEncoder
from prd_lightning.text_cache import EmbeddingCache

STEP, DATA, ENCODED, CACHED = "whole step", "prompts and cameras", "text, encoded on the fly", "text, from the disk cache"
TEXT = "text"


@contextmanager
def timed(encoders: list[PromptEncoder], watch: Stopwatch) -> Iterator[None]:
    """Adds the time inside of ``encode`` to the section ``text``."""
    plain = [encoder.encode for encoder in encoders]
    for encoder, encode in zip(encoders, plain):

        def measured(prompts, encode=encode):  # noqa: ANN001, ANN202
            watch.start(TEXT)
            try:
                return encode(prompts)
            finally:
                watch.stop(TEXT)

        encoder.encode = measured
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.encode


def run_step(module: PRDModule, batches: Iterator[PromptBatch], watch: Stopwatch) -> dict[str, float]:
    """Seconds of one optimizer step without the optimizer's own update, and of the waiting in it."""
    watch.start(STEP)
    for _ in range(module.unroll_steps):
        watch.start(DATA)
        batch = next(batches).to(module.device)
        watch.stop(DATA)
        maps, loss = module.unroll(batch), 0.0
        for teacher in module.teachers.values():
            scored = {key: value for key, value in maps.items() if key in teacher.renderers}
            loss = loss + surrogate_loss(scored, teacher.map_gradients(scored, batch.prompts, batch.cameras, step=0))
        loss.backward()
    watch.stop(STEP)
    module.zero_grad(set_to_none=True)
    return watch.round()


def build(settings: Settings) -> Result:
    """Every step meets prompts that are new to the memory; the second time they come from the disk."""
    config = compose_config(["teacher=triplaneturbo", *(SMALLEST if settings.smallest else ())])
    module = build_module(config).to(settings.device).train()
    encoders = [part for part in module.modules() if isinstance(part, PromptEncoder)]
    watch, rounds = Stopwatch(settings.device), {}
    batches = iter(build_data(config).train_dataloader())
    with tempfile.TemporaryDirectory() as folder, timed(encoders, watch):
        cache = EmbeddingCache(folder)
        for encoder in encoders:
            encoder.disk_cache = cache
        for number in range(settings.repeats + 1):
            first, again = itertools.tee(itertools.islice(batches, module.unroll_steps))
            for name, cycle in ((ENCODED, first), (CACHED, again)):
                for encoder in encoders:
                    encoder.forget()
                seconds = run_step(module, cycle, watch)
                cache.flush()
                if number:
                    rounds.setdefault(name, []).append(seconds[TEXT])
                    if name == ENCODED:
                        rounds.setdefault(STEP, []).append(seconds[STEP])
                        rounds.setdefault(DATA, []).append(seconds[DATA])
    sizes = {"prompts": config.data.batch_size, "unroll_steps": module.unroll_steps, "encoders": len(encoders)}
    return Result("waiting in a training step of the tiny world", sizes, make_cases(rounds, STEP))
