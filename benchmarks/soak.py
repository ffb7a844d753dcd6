"""``python -m benchmarks.soak``: a training that is killed again and again ends as one that was left alone.

A very small training runs undisturbed. It is then started again, killed with SIGKILL, and goes on by ``ckpt_path=last``, over
and over. A training that comes to its end is compared with the undisturbed one and followed by another in a fresh folder, until
enough kills have happened. Kills of two kinds take turns, at moments drawn from a seed:

``time``      so many seconds after the start, whatever the process is doing (starting up, too);
``writing``   when a file or folder below ``checkpoints/`` is written, renamed or removed for the n-th time, or a little later.

Compared bit for bit: the weights, their average, the optimizer's state, all counters and the position in the prompts of the last
checkpoint; the names of the checkpoints that are left; every recorded number of every step.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.measuring import Settings, environment, write_results
from benchmarks.soak_contents import checkpoint_contents, recorded_numbers
from prd_lightning import cli
from prd_lightning.callbacks import FolderCheckpointIO
from prd_lightning.errors import ConfigurationError, MissingWeightsError, PRDError
from prd_lightning.files import check_output
from prd_lightning.run_folder import CHECKPOINTS, find_checkpoint

SCHEMA = "prd_lightning.soak.1"
TRAINING = (
    "teacher=richdreamer", "trainer.log_every_n_steps=1", "+trainer.enable_progress_bar=false", "evaluation.enabled=false",
    "preview.prompts=[]", "threads=1", "generator.rank=2", "generator.plane_channels=8", "generator.hidden=8",
    "world.batch_size=1", "world.compositions=0.3", "world.volume.image_size=8", "world.volume.proposal_samples=8",
    "world.volume.fine_samples=6", "world.mesh.resolution=8", "world.mesh.image_size=8", "world.stable_diffusion.image_size=16",
)  # fmt: skip
"""Overrides of the smallest training that has everything with a state: both renderers, two teachers, a schedule, an average."""
WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
"""Python's audit events of changes in the file system."""
LARGEST_OPERATION, LARGEST_DELAY = 80, 0.02
"""Bounds of the moments while writing: one save of a checkpoint is some forty operations."""
TIME_LIMIT = 900.0
"""Seconds after which a process that is not to be killed counts as stuck."""
processes = multiprocessing.get_context("forkserver")


class SoakError(PRDError):
    """A training ended by itself, or not at all."""


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    Attributes:
        kind: see the module.
        after: seconds since the start, or the number of the operation.
        delay: seconds after that operation.
    """

    kind: Literal["time", "writing"]
    after: float
    delay: float = 0.0


@dataclass
class Report:
    """What happened.

    Attributes:
        kills: when each was, in which training, what lay there half written, and from which checkpoint and step it goes on.
        trainings: that were killed and came to their end.
        tensors, numbers: how many were compared in each.
        differences: from the undisturbed training; none if all is well.
    """

    kills: list[dict[str, Any]] = field(default_factory=list)
    trainings: int = 0
    tensors: int = 0
    numbers: int = 0
    differences: list[str] = field(default_factory=list)


def draw_kills(count: int, seed: int, seconds: float) -> Iterator[Kill]:
    """Moments without end, of both kinds in turn; ``seconds`` is how long an undisturbed training takes."""
    draw = random.Random(seed)
    while True:
        yield Kill("writing", draw.randint(1, LARGEST_OPERATION), draw.choice((0.0, draw.uniform(0.0, LARGEST_DELAY))))
        yield Kill("time", draw.uniform(0.0, seconds))


def kill_while_writing(folder: Path, kill: Kill) -> None:
    """Has this process kill itself just before an operation below ``folder``, or a moment after it has begun."""
    seen = 0

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in WRITES or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        if seen == kill.after:
            die() if not kill.delay else signal.setitimer(signal.ITIMER_REAL, kill.delay)

    signal.signal(signal.SIGALRM, die)
    sys.addaudithook(watch)


def run_training(overrides: list[str], folder: Path, log: Path, kill: Kill | None) -> None:
    """What a process of its own does: ``prd train``, with its output appended to ``log``."""
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if kill is not None and kill.kind == "writing":
        kill_while_writing(folder / CHECKPOINTS, kill)
    sys.exit(cli.main(["train", *overrides]))


def run_process(folder: Path, steps: int, every: int, kill: Kill | None = None) -> bool:
    """Starts a training or goes on with it; whether it came to its end before it was killed.

    Raises:
        SoakError: it ended with an error, or did not end.
    """
    resume = "ckpt_path=last" if newest_checkpoint(folder) else "overwrite=true"
    lengths = [f"trainer.max_steps={steps}", f"checkpoint.every_n_steps={every}"]
    log = folder.with_suffix(".log")
    overrides = [*TRAINING, *lengths, f"output={folder}", resume]
    process = processes.Process(target=run_training, args=(overrides, folder, log, kill))
    process.start()
    by_time = kill is not None and kill.kind == "time"
    process.join(kill.after if by_time else TIME_LIMIT)
    stuck = process.is_alive() and not by_time
    process.kill()
    process.join()
    if stuck or process.exitcode not in (0, -signal.SIGKILL) or (kill is None and process.exitcode):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SoakError(f"the training in {folder} {'is stuck' if stuck else f'ended with status {process.exitcode}'}:\n{tail}")
    return process.exitcode == 0


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that ``ckpt_path=last`` goes on from, or None before the first one."""
    try:
        return find_checkpoint("last", folder, FolderCheckpointIO().load_checkpoint)
    except MissingWeightsError:
        return None


def half_written(folder: Path) -> list[str]:
    """Names of unfinished files and folders of checkpoints."""
    return sorted(str(path.relative_to(folder / CHECKPOINTS)) for path in (folder / CHECKPOINTS).rglob(".*"))


def compare(report: Report, expected: Path, actual: Path) -> None:
    """Adds what differs between two finished trainings to the report."""
    first, second = checkpoint_contents(expected), checkpoint_contents(actual)
    numbers, again = recorded_numbers(expected), recorded_numbers(actual)
    report.trainings += 1
    report.tensors, report.numbers = sum(isinstance(value, tuple) for value in first.values()), len(numbers)
    for one, other in ((first, second), (numbers, again)):
        changed = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        report.differences += [f"{actual.name}: {name}" for name in changed]


def soak(
    folder: Path,
    count: int,
    seed: int = 0,
    steps: int = 40,
    every: int = 2,
    minutes: float | None = None,
    kills: Iterator[Kill] | None = None,
) -> Report:
    """Kills trainings ``count`` times.

    Args:
        folder: for the trainings.
        count: of kills.
        seed: of their moments.
        steps: optimizer steps of a training.
        every: steps between two checkpoints.
        minutes: after which nothing is killed any more; None for no limit.
        kills: moments of one's own.

    Raises:
        SoakError: a training ended with an error, or did not end.
    """
    processes.set_forkserver_preload(["prd_lightning.train", "benchmarks"])
    warm_up = processes.Process(target=int)  # the library is imported once, not in every process
    warm_up.start()
    warm_up.join()
    started = time.monotonic()
    run_process(folder / "undisturbed", steps, every)
    kills = kills or draw_kills(count, seed, time.monotonic() - started)
    report = Report()

    def goes_on() -> bool:
        return len(report.kills) < count and (minutes is None or time.monotonic() - started < 60 * minutes)

    while goes_on():
        run, finished = folder / f"killed_{report.trainings + 1}", False
        while not finished:
            kill = next(kills) if goes_on() else None
            finished = run_process(run, steps, every, kill)
            if not finished:
                report.kills.append(describe(kill, run, report.trainings + 1))
                print(f"kill {len(report.kills)} of {count}: {report.kills[-1]}", flush=True)
        compare(report, folder / "undisturbed", run)
    return report


def describe(kill: Kill, run: Path, training: int) -> dict[str, Any]:
    """A kill that has happened."""
    checkpoint = newest_checkpoint(run)
    step = 0 if checkpoint is None else FolderCheckpointIO().load_checkpoint(checkpoint)["global_step"]
    left = {"half_written": half_written(run), "goes_on_from": checkpoint and checkpoint.name, "step": step}
    return {"training": training, **asdict(kill), **left}


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Kills small trainings and compares them with one that was left alone."
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how often (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default 0)")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="optimizer steps of a training (default 40)")
    parser.add_argument("--every", type=int, default=2, metavar="N", help="steps between two checkpoints (default 2)")
    parser.add_argument("--minutes", type=float, metavar="M", help="after which nothing is killed any more (default: no limit)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for what happened")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; status 1 if a training differs, 2 after a user's mistake or a training that failed."""
    given = build_parser().parse_args(arguments)
    try:
        for name in ("kills", "steps", "every"):
            if getattr(given, name) < 1:
                raise ConfigurationError(f"--{name} must be at least 1, got {getattr(given, name)}")
        if given.output:
            check_output(given.output, given.overwrite)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = soak(Path(folder).resolve(), given.kills, given.seed, given.steps, given.every, given.minutes)
        settings = {name: getattr(given, name) for name in ("kills", "seed", "steps", "every", "minutes")}
        options = [f"--{name} {value}" for name, value in settings.items() if value is not None]
        command = " ".join(["python -m benchmarks.soak", *options])
        found = {"schema": SCHEMA, "command": command, **settings, "seconds": round(time.monotonic() - started, 1)}
        torch.set_num_threads(1)  # as the trainings do
        found |= {"environment": environment(Settings(torch.device("cpu"))), "training": TRAINING, "report": asdict(report)}
        write_results(found, given.output, given.overwrite)
    except PRDError as error:
        print(f"python -m benchmarks.soak: error: {error}", file=sys.stderr)
        return 2
    print(f"{len(report.kills)} kills in {report.trainings} trainings; each compared with the undisturbed one in ", end="")
    print(f"{report.tensors} tensors and {report.numbers} numbers: {len(report.differences)} differences")
    for name in report.differences[:20]:
        print(f"  {name}")
    return int(bool(report.differences))


if __name__ == "__main__":
    sys.exit(main())
