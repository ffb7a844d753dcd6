"""Where the time of one optimizer step of ``prd train`` goes: the shipped tiny world with all three teachers."""

from benchmarks.measuring import Result, Settings, Stopwatch, make_cases
from prd_lightning.building import build_data, build_module
from prd_lightning.configuration import compose_config
from prd_lightning.data import PromptBatch
from prd_lightning.module import PRDModule, surrogate_loss

SMALLEST = (
    "module.unroll_steps=1",
    "world.batch_size=1",
    "world.volume.image_size=4",
    "world.volume.patch_size=2",
    "world.volume.proposal_samples=4",
    "world.volume.fine_samples=4",
    "world.mesh.resolution=8",
    "world.mesh.image_size=8",
)
GENERATOR, TEACHERS, BACKWARD, STEP = "generator", "teachers", "backward", "whole step"
UNROLL = "unroll"


def run_step(module: PRDModule, cycle: list[PromptBatch], watch: Stopwatch) -> dict[str, float]:
    """Seconds of the parts of one optimizer step: K unroll steps, without the optimizer's own update."""
    watch.start(STEP)
    for batch in cycle:
        watch.start(UNROLL)
        maps = module.unroll(batch)
        watch.stop(UNROLL)
        loss = 0.0
        watch.start(TEACHERS)
        for teacher in module.teachers.values():
            scored = {key: value for key, value in maps.items() if key in teacher.renderers}
            loss = loss + surrogate_loss(scored, teacher.map_gradients(scored, batch.prompts, batch.cameras, step=0))
        watch.stop(TEACHERS)
        watch.start(BACKWARD)
        loss.backward()
        watch.stop(BACKWARD)
    watch.stop(STEP)
    module.zero_grad(set_to_none=True)
    seconds = watch.round()
    generator = seconds.pop(UNROLL) - sum(seconds[name] for name in module.renderers)
    return {GENERATOR: generator, **{name: seconds[name] for name in (*module.renderers, TEACHERS, BACKWARD, STEP)}}


def build(settings: Settings) -> Result:
    """Measures the step."""
    config = compose_config(["teacher=triplaneturbo", *(SMALLEST if settings.smallest else ())])
    module = build_module(config).to(settings.device).train()
    watch = Stopwatch(settings.device)
    for name, renderer in module.renderers.items():
        renderer.register_forward_pre_hook(lambda *_, name=name: watch.start(name))
        renderer.register_forward_hook(lambda *_, name=name: watch.stop(name))
    batches = iter(build_data(config).train_dataloader())
    rounds: dict[str, list[float]] = {}
    for number in range(settings.repeats + 1):
        cycle = [next(batches).to(settings.device) for _ in range(module.unroll_steps)]
        for name, seconds in run_step(module, cycle, watch).items():
            if number:
                rounds.setdefault(name, []).append(seconds)
    sizes = {"prompts": config.data.batch_size, "unroll_steps": module.unroll_steps, "views": config.cameras.views_per_prompt}
    return Result("one training step of the tiny world, by part", sizes, make_cases(rounds, STEP))
