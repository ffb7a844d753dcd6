"""A training that is killed with SIGKILL twice ends bit for bit as one that was left alone; ``make soak`` kills more often."""

import itertools
import json

import pytest
import torch

from benchmarks import soak
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator, save_generator


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of the trainings, and what happened: a kill while the second checkpoint is written, one a little later."""
    folder = tmp_path_factory.mktemp("soak").resolve()
    kills = [soak.Kill("writing", 28), soak.Kill("writing", 14, 0.3)]
    return folder, soak.soak(folder, count=2, steps=4, every=1, kills=iter(kills))


@pytest.mark.slow
def test_the_end_is_the_same(killed):
    _, report = killed
    assert report.differences == [] and report.trainings == 1 and len(report.kills) == 2
    assert report.tensors > 100 and report.numbers > 40


@pytest.mark.slow
def test_one_kill_left_a_checkpoint_half_written(killed):
    _, report = killed
    assert report.kills[0]["half_written"]
    assert all(kill["step"] < 4 for kill in report.kills)


@pytest.mark.slow
def test_a_single_bit_and_a_single_number_are_seen(killed):
    folder, _ = killed
    run, report = folder / "killed_1", soak.Report()
    file = run / "checkpoints" / "last" / GENERATOR_FILE
    tensors, architecture = load_generator(file)
    name = next(iter(tensors))
    tensors[name].view(torch.int32).view(-1)[0] ^= 1
    file.unlink()
    save_generator(file, tensors, architecture)
    metrics = run / "metrics.csv"
    metrics.write_text(metrics.read_text().rstrip() + "1\n")
    soak.compare(report, folder / "undisturbed", run)
    assert len(report.differences) == 2 and name in "".join(report.differences)


def test_moments_are_drawn_from_the_seed():
    first, again, other = (list(itertools.islice(soak.draw_kills(10, seed, 5.0), 20)) for seed in (0, 0, 1))
    assert first == again != other
    assert {kill.kind for kill in first} == {"time", "writing"}
    assert all(0 <= kill.after <= 5 for kill in first if kill.kind == "time")


def test_mistakes(tmp_path, capsys):
    assert soak.main(["--kills", "0"]) == 2 and "--kills must be at least 1" in capsys.readouterr().err
    taken = tmp_path / "taken.json"
    taken.write_text(json.dumps({}))
    assert soak.main(["--output", str(taken)]) == 2 and "exists" in capsys.readouterr().err
