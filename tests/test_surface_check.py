"""The check of the sparse search sees what it is there to see, and goes on where it was stopped."""

import argparse
import json

import pytest

from benchmarks import surface_check, surface_fields
from prd_lightning.isosurface import FieldGrid, GridSigns


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    monkeypatch.setattr(surface_check, "PLANES", {12: 20, 16: 26})
    monkeypatch.setattr(surface_check, "MESHES", 12)


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(surface_check, "peak_megabytes", lambda *_: 1.0)


JOBS = [("random", number, resolution) for resolution in (12, 16) for number in range(5)]


def test_every_field_at_every_resolution_and_each_at_one_first(monkeypatch):
    monkeypatch.setattr(surface_check, "AT_ONCE", 7)
    monkeypatch.setattr(surface_check, "SPREAD", (0, 1, 0))
    jobs = list(surface_check.jobs_of(1, 31))
    assert jobs[0] == ("tiny", 0, 12) and jobs[32] == ("tiny", 0, 16)
    assert [job[:2] for job in jobs[1:32]] == [("random", number) for number in range(31)]
    first = [{job[1] % len(surface_fields.KINDS) for job in jobs[1:32] if job[2] == resolution} for resolution in (12, 16)]
    assert first == [set(range(5)), set(range(5))], "every kind of field at every resolution"
    assert [job[0] for job in jobs[33:37]] == ["memory"] * 4
    assert len(jobs) == len(set(jobs)) == 2 + 4 + 2 * 31


def test_one_field_in_twenty_is_compared_at_the_finest_resolution_first():
    assert len(surface_check.SPREAD) == 20
    assert [surface_check.SPREAD.count(index) for index in range(4)] == [10, 6, 3, 1]


def test_a_stopped_check_goes_on_without_doing_anything_twice(tmp_path, monkeypatch):
    partial, calls = tmp_path / "check.json.partial", []
    whole = surface_check.run_jobs(JOBS, None, float("inf"))

    def stopped_after(count):
        def compare(*arguments):
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(arguments)
            return surface_fields.compare(*arguments)

        monkeypatch.setattr(surface_check, "compare", compare)

    stopped_after(6)
    with pytest.raises(KeyboardInterrupt):
        surface_check.run_jobs(JOBS, partial, float("inf"))
    with partial.open("a") as stream:
        stream.write('{"job": ["random", 1')  # killed while it wrote
    stopped_after(100)
    assert surface_check.run_jobs(JOBS, partial, float("inf")) == whole
    assert len(calls) == len(JOBS)
    assert surface_check.read_partial(partial) == whole


def test_outcomes_of_other_code_are_not_taken_over(tmp_path, monkeypatch):
    partial = tmp_path / "check.json.partial"
    surface_check.run_jobs(JOBS[:2], partial, float("inf"))
    assert len(surface_check.read_partial(partial)) == 2
    monkeypatch.setattr(surface_check, "source_hash", lambda: "another")
    assert surface_check.read_partial(partial) == {}


def test_fields_of_another_generator_are_compared_again(tmp_path, monkeypatch):
    partial = tmp_path / "check.json.partial"
    surface_check.run_jobs([("tiny", 0, 12), *JOBS[:2]], partial, float("inf"))
    assert len(surface_check.read_partial(partial)) == 3
    monkeypatch.setattr(surface_check, "generator_hash", lambda: "another")
    assert list(surface_check.read_partial(partial)) == JOBS[:2]


def test_the_time_limit_leaves_the_rest(tmp_path):
    assert surface_check.run_jobs(JOBS, tmp_path / "check.json.partial", -1.0) == {}


def test_a_missed_piece_is_counted_and_measured(monkeypatch):
    """A search that misses a bar of three points, and one point apart from it."""
    right = FieldGrid.sparse_signs

    def wrong(self):
        signs = right(self)
        inside = signs.inside.clone()
        inside[2, 2, 2:5] ^= True
        inside[8, 8, 8] ^= True
        return GridSigns(inside, signs.evaluated, certain=True)

    monkeypatch.setattr(FieldGrid, "sparse_signs", wrong)
    summary = surface_check.summarize(surface_check.run_jobs(JOBS[:5], None, float("inf")))
    tally = summary["random"]["12"]
    assert tally["fields"] == tally["differing_fields"] == tally["differing_though_certain"] == 5
    assert tally["differing_points"] == 20 and tally["largest_piece"] == 3
    assert tally["meshes"] == 1 and tally["same_faces"] == 0  # the first of eleven
    assert [kind["fields"] for kind in summary["random_by_kind"].values()] == [1] * 5


def test_the_command_writes_its_findings_and_goes_on(tmp_path, capsys, no_memory):
    path = tmp_path / "check.json"
    command = ["--fields", "6", "--prompts", "1", "--output", str(path), "--overwrite"]
    assert surface_check.main([*command, "--minutes", "-1"]) == 0
    assert not json.loads(path.read_text())["complete"] and path.with_name("check.json.partial").is_file()
    assert surface_check.main(command) == 0
    found = json.loads(path.read_text())
    assert found == json.loads(capsys.readouterr().out.split("\n}\n", 1)[1])
    assert found["complete"] and not path.with_name("check.json.partial").exists()
    assert found["peak_megabytes_at_16"] == {
        f"{kind}, {search}": 1.0 for kind in ("4 texels", "white noise") for search in ("sparse", "dense")
    }
    assert found["tiny"]["16"]["fields"] == 1 and found["random"]["12"]["fields"] == 6
    assert found["random"]["12"]["same_faces"] == found["random"]["12"]["meshes"] > 0


def test_wrong_signs_that_were_certain_are_an_error(monkeypatch, no_memory):
    monkeypatch.setattr(surface_check, "compare", lambda *_: dict(certain=True, surface=True, differing=1, piece=1, share=0.1))
    given = argparse.Namespace(prompts=0, fields=1, minutes=float("inf"), output=None, overwrite=False)
    assert not surface_check.check(given)


@pytest.mark.parametrize("arguments", [["--fields", "-1"], ["--prompts", "1000"]])
def test_mistakes_are_one_line(arguments, capsys):
    assert surface_check.main(arguments) == 2
    assert "--prompts at most 72" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_that_of_the_surface_alone():
    """Tables of three planes at 65^2 places and 64 units, the signs, a surface: some ten megabytes, not the whole process."""
    assert 3 < surface_check.peak_megabytes("4 texels", "sparse", 64) < 100
