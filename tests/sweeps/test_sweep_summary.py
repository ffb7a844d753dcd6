"""The summary of a sweep: what is read from run folders, how runs are grouped, and the tables and the picture."""

import csv
import json
import logging
from pathlib import Path

import numpy
import pytest
from PIL import Image

from prd_lightning import cli
from prd_lightning.errors import ConfigurationError, MissingRunsError
from prd_lightning.sweeps import find_runs, read_run, summarize
from prd_lightning.sweeps.runs import flat_numbers, parse_overrides

SCORES = {("mvdream", 0): 0.5, ("mvdream", 1): 0.75, ("mvdream", 2): 0.4, ("richdreamer", 0): 0.25, ("richdreamer", 1): 0.75}


def write_run(folder: Path, overrides: list[str], iou: float | None = None, status: str = "done", **job: object) -> Path:
    folder.mkdir(parents=True)
    entry = {"overrides": overrides, "seed": 0, "status": status, "error": None, "seconds": 20.0, "cpu_seconds": 10.0} | job
    (folder / "job.json").write_text(json.dumps(entry))
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n0,0,3.0\n0,1,2.0\n0,2,\n")
    if iou is not None:
        (folder / "evaluation.json").write_text(json.dumps({"iou": iou, "nested": {"r": 1}, "rows": [{"iou": 9.0}]}))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two variants with three and two seeds, a failed and a running job, in one sweep's folder."""
    shared = ["trainer.max_steps=3", "output=x", "ckpt_path=last", "hydra.launcher.n_jobs=2"]
    for number, ((teacher, seed), iou) in enumerate(SCORES.items()):
        overrides = [f"teacher={teacher}", f"seed={seed}", *shared]
        write_run(tmp_path / f"{number}_{teacher}_seed{seed}", overrides, iou, cpu_seconds=10.0 + seed)
    write_run(tmp_path / "10_bad", ["teacher=mvdream", "seed=3", *shared], 0.9, "failed", error="PromptError: no | prompt")
    write_run(tmp_path / "11_bad", ["teacher=volume", "seed=0", *shared], None, "running")
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_variants_are_runs_that_differ_in_their_seed_alone(root):
    summary = summarize(find_runs(root))
    assert [variant.name for variant in summary.variants] == ["mvdream", "richdreamer", "volume"]
    assert summary.varied == ["teacher"] and summary.metrics == ["iou", "nested.r"]
    assert [len(variant.finished) for variant in summary.variants] == [3, 2, 0]
    assert [run.folder.name for run in summary.unfinished] == ["10_bad", "11_bad"]


def test_means_and_deviations_are_those_of_numpy(root):
    for variant in summarize(find_runs(root)).variants[:2]:
        values = [iou for (teacher, _), iou in SCORES.items() if teacher == variant.name]
        found = variant.statistics["iou"]
        assert found.mean == pytest.approx(numpy.mean(values)) and found.deviation == pytest.approx(numpy.std(values, ddof=1))
        assert variant.statistics["cpu_seconds"].mean == pytest.approx(10 + (len(values) - 1) / 2)


def test_a_single_run_has_no_deviation(tmp_path):
    write_run(tmp_path / "run", ["seed=1"], 0.5)
    (variant,) = summarize(find_runs(tmp_path)).variants
    assert variant.name == "default" and variant.statistics["iou"].deviation is None


def test_runs_are_sorted_by_number_and_their_own_folders_are_not_searched(root):
    (root / "0_mvdream_seed0" / "checkpoints").mkdir()
    (root / "0_mvdream_seed0" / "checkpoints" / "config.yaml").touch()
    (root / ".submitit").mkdir()
    (root / ".submitit" / "config.yaml").touch()
    names = [run.folder.name for run in find_runs(root)]
    assert names[:2] == ["0_mvdream_seed0", "1_mvdream_seed1"] and names[-2:] == ["10_bad", "11_bad"] and len(names) == 7


def test_several_settings_make_a_label_and_means_are_taken_over_what_is_named(tmp_path):
    for number, (rank, size, seed) in enumerate([(2, 1, 0), (2, 2, 0), (4, 1, 0), (4, 2, 1)]):
        overrides = [f"generator.rank={rank}", f"world.batch_size={size}", f"seed={seed}", "~teacher.mvdream"]
        write_run(tmp_path / str(number), overrides, float(number))
    by_seed = summarize(find_runs(tmp_path))
    assert [variant.name for variant in by_seed.variants][0] == "generator.rank=2 world.batch_size=1"
    over_both = summarize(find_runs(tmp_path), ("seed", "world.batch_size"), sort="iou")
    found = [(variant.name, variant.statistics["iou"].values) for variant in over_both.variants]
    assert found == [("4", (2.0, 3.0)), ("2", (0.0, 1.0))]


def test_variants_are_compared_with_a_baseline_seed_by_seed(root, capsys):
    summary = summarize(find_runs(root), baseline="mvdream")
    found = {variant.name: variant.differences.get("iou") for variant in summary.variants}
    assert found["mvdream"] is None and found["volume"] is None
    assert found["richdreamer"].values == pytest.approx((0.25 - 0.5, 0.75 - 0.75))
    assert cli.main(["sweep-summary", str(root), "--baseline", "mvdream"]) == 0
    rows = table(root / "summary.csv")
    assert float(rows[1]["iou_difference_mean"]) == pytest.approx(-0.125) and rows[0]["iou_difference_mean"] == ""
    assert float(rows[1]["iou_difference_std"]) == pytest.approx(numpy.std([-0.25, 0.0], ddof=1))
    page = (root / "summary.md").read_text()
    assert "| Δ iou | Δ nested.r |" in page and "| -0.125 ± 0.177 |" in page and "Differences are to `mvdream`" in page
    with pytest.raises(ConfigurationError, match="no variant 'full'; there are: mvdream, richdreamer, volume"):
        summarize(find_runs(root), baseline="full")


def test_the_same_variant_and_seed_twice_is_told(tmp_path, caplog):
    for name in "ab":
        write_run(tmp_path / name, ["seed=1"], 0.5)
    with caplog.at_level(logging.WARNING):
        assert len(summarize(find_runs(tmp_path)).variants[0].finished) == 2
    assert "the same variant and seed" in caplog.text


def test_without_scores_the_last_losses_are_taken(tmp_path):
    run = read_run(write_run(tmp_path / "run", []))
    assert run.metrics == {"train/loss": 2.0} and run.steps == 3


def test_runs_without_a_record_are_told_apart_by_their_folders(tmp_path):
    for number, (name, seed) in enumerate([("full", 0), ("full", 1), ("no_volume", 0)]):
        folder = tmp_path / f"{number}_{name}_seed{seed}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"seed: {seed}\n")
        (folder / "evaluation.json").write_text('{"iou": 0.5, "undefined": NaN}')
    (tmp_path / "3_unfinished").mkdir()
    (tmp_path / "3_unfinished" / "config.yaml").write_text("seed: [")
    summary = summarize(find_runs(tmp_path))
    found = [(variant.name, len(variant.finished)) for variant in summary.variants]
    assert found == [("full", 2), ("no_volume", 1), ("unfinished", 0)]
    assert summary.metrics == ["iou"]


def test_damaged_files_count_as_missing(root):
    for name in ("job.json", "evaluation.json", "metrics.csv"):
        (root / "0_mvdream_seed0" / name).write_bytes(b"\xff{")
    summary = summarize(find_runs(root))
    assert len(summary.variants) == 4 and "0_mvdream_seed0" in [run.folder.name for run in summary.unfinished]


def test_overrides_are_read_as_hydra_means_them():
    given = ["+a.b=1", "++c=x=y", "~teacher.mvdream", "output=o", "hydra.sweep.dir=z", "hydra/launcher=joblib", "d=1", "d=2"]
    assert parse_overrides(given) == {"a.b": "1", "c": "x=y", "~teacher.mvdream": "", "d": "2"}
    assert flat_numbers({"a": 1, "b": {"c": 2.5, "d": "x", "e": True}, "f": [1], "g": float("inf")}) == {"a": 1.0, "b.c": 2.5}


def test_the_command_writes_tables_and_a_picture(root, capsys):
    assert cli.main(["sweep-summary", str(root)]) == 0
    rows = table(root / "summary.csv")
    assert [(row["variant"], row["teacher"], row["runs"], row["unfinished"]) for row in rows] == [
        ("mvdream", "mvdream", "3", "1"),
        ("richdreamer", "richdreamer", "2", "0"),
        ("volume", "volume", "0", "1"),
    ]
    assert float(rows[1]["iou_mean"]) == 0.5 and float(rows[1]["iou_std"]) == pytest.approx(0.5**0.5 / 2)
    assert rows[2]["iou_mean"] == ""
    jobs = table(root / "jobs.csv")
    assert len(jobs) == 7 and jobs[0]["folder"] == "0_mvdream_seed0" and (jobs[1]["seed"], jobs[1]["iou"]) == ("1", "0.75")
    assert jobs[3]["status"] == "failed" and jobs[3]["error"] == "PromptError: no | prompt"
    page = (root / "summary.md").read_text()
    assert "| mvdream | 3 of 4 | 0.550 ± 0.180 |" in page and "* `10_bad`: failed: PromptError" in page and str(root) not in page
    printed = capsys.readouterr().out
    assert "0.550 ± 0.180" in printed and str(root / "summary.png") in printed


def test_the_picture_shows_every_run_where_its_value_is(root, monkeypatch):
    from matplotlib.axes import Axes

    from prd_lightning.sweeps.plot import write_plot

    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, *rest, **style: drawn.extend(zip(x, y)))
    write_plot(summarize(find_runs(root), metrics=["iou"]), root / "dots.png")
    rows = {"mvdream": 0, "richdreamer": 1}
    assert sorted(drawn) == sorted((iou, rows[teacher]) for (teacher, _), iou in SCORES.items())
    monkeypatch.undo()
    size = Image.open(write_plot(summarize(find_runs(root)), root / "whole.png")).size
    assert size[0] > 600 and size[1] > 250


def test_a_sweep_without_a_finished_run_is_summarized(tmp_path):
    write_run(tmp_path / "only", ["seed=0"], None, "failed", error="out of memory")
    assert cli.main(["sweep-summary", str(tmp_path)]) == 0
    assert "failed: out of memory" in (tmp_path / "summary.md").read_text() and (tmp_path / "summary.png").stat().st_size > 1000


def test_without_matplotlib_there_are_tables_and_a_warning(root, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert cli.main(["sweep-summary", str(root), "--output", str(root / "tables")]) == 0
    assert {path.name for path in (root / "tables").iterdir()} == {"summary.csv", "jobs.csv", "summary.md"}
    assert "needs matplotlib" in caplog.text


def test_mistakes_are_told(root, tmp_path, capsys):
    with pytest.raises(MissingRunsError, match="there is no folder"):
        find_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingRunsError, match="no run under"):
        find_runs(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="no finished run has the metric 'fid'; there are: iou, nested.r"):
        summarize(find_runs(root), metrics=["fid"])
    assert cli.main(["sweep-summary", str(root), "--sort", "fid"]) == 2
    assert "prd sweep-summary: error: no finished run has the metric 'fid'" in capsys.readouterr().err
