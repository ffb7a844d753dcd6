"""The journal of a corpus: one line a mesh, nothing lost by a kill, one run at a time, and no mixing of settings."""

import json
import logging
from pathlib import Path

import numpy
import pytest

from prd_lightning.corpus import CorpusPlan, Entry, Journal
from prd_lightning.corpus.predictor import Shares
from prd_lightning.data.store import PromptStore, write_store
from prd_lightning.errors import ConfigurationError, OutputExistsError

SETTINGS = {"steps": 4, "mesh": {"resolution": 12}}


def entry(prompt: str, status: str = "done", **values: object) -> Entry:
    file = f"{prompt}.glb" if status == "done" else None
    return Entry(prompt, 0, status, **{"file": file, "numbers": {"faces": 12}} | values)


def plan(folder: Path, prompts: list[str], seeds: tuple[int, ...] = (0,)) -> CorpusPlan:
    write_store(folder, prompts)
    return CorpusPlan(PromptStore(folder), seeds)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_entries_of_several_processes_are_merged_in_the_order_of_the_corpus(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.open(SETTINGS, overwrite=False)
    first.add([entry("b", process=0)])
    second.add([entry("ä", process=1), entry("c", "failed", error="no surface")])
    assert [failure.prompt for failure in first.merge([("ä", 0), ("b", 0), ("c", 0), ("never", 0)])] == ["c"]
    found = [(line["prompt"], line["process"], line["faces"]) for line in lines(tmp_path)]
    assert found == [("ä", 1, 12), ("b", 0, 12), ("c", 0, 12)]
    assert not (tmp_path / ".results").exists() and list(first.entries()) == [Entry.from_values(line) for line in lines(tmp_path)]


def test_the_last_entry_of_a_prompt_counts_and_there_is_one_line(tmp_path):
    journal = Journal(tmp_path)
    journal.open(SETTINGS, overwrite=False)
    journal.add([entry("a", "failed", error="no surface")])
    assert len(journal.merge([("a", 0)])) == 1
    later = Journal(tmp_path)
    later.add([entry("a", attempts=2), entry("gone")])
    assert later.merge([("a", 0)]) == []
    found = [(line["prompt"], line["status"], line["attempts"]) for line in lines(tmp_path)]
    assert found == [("a", "done", 2), ("gone", "done", 1)]


def test_a_line_that_was_cut_off_is_ignored(tmp_path, caplog):
    journal = Journal(tmp_path)
    journal.add([entry("a"), entry("b")])
    (part,) = (tmp_path / ".results").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert [found.prompt for found in journal.entries()] == ["a"]
    assert "cut off" in caplog.text
    (tmp_path / "results.jsonl").write_text('[1]\n{"prompt": "c"}\n')
    assert [found.prompt for found in journal.entries()] == ["a"]


def test_one_run_at_a_time(tmp_path):
    first = Journal(tmp_path)
    first.open(SETTINGS, overwrite=False)
    with pytest.raises(OutputExistsError, match="another `prd generate` is writing"):
        Journal(tmp_path).open(SETTINGS, overwrite=False)
    first.close()
    Journal(tmp_path).open(SETTINGS, overwrite=False)


def test_other_settings_are_refused_by_name_or_start_anew(tmp_path):
    journal = Journal(tmp_path)
    journal.open(SETTINGS, overwrite=False)
    journal.add([entry("a")])
    journal.merge([])
    journal.close()
    with pytest.raises(ConfigurationError, match="other settings .steps: then 4, now 2.*--overwrite"):
        Journal(tmp_path).check(SETTINGS | {"steps": 2})
    again = Journal(tmp_path)
    again.open(SETTINGS | {"steps": 2}, overwrite=True)
    assert list(again.entries()) == [] and again.settings()["steps"] == 2
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(ConfigurationError, match="corpus.json cannot be read"):
        again.settings()


def test_every_different_prompt_with_every_seed_once(tmp_path):
    made = plan(tmp_path / "store", ["b", "a", "b", "c", "a"], seeds=(0, 7, 0))
    assert (len(made), made.repeated) == (6, 2)
    assert list(made.all()) == [(prompt, seed) for prompt in "bac" for seed in (0, 7)]
    assert made.tasks([5, 0]) == [("c", 7), ("b", 0)]


def test_names_are_safe_and_different_even_where_short_hashes_meet(tmp_path, monkeypatch):
    hostile = ["a red cone", "A red cone", "../../etc/passwd", "a\x00b", "ein Kegel, grün", "x" * 500, "x" * 501, "CON", "  ."]
    made = plan(tmp_path / "store", hostile, seeds=(0, 1))
    stems = [made.stem(prompt, seed) for prompt, seed in made.all()]
    assert len(set(stems)) == 18 and all(stem.replace("_", "").isalnum() and len(stem) < 120 for stem in stems)
    monkeypatch.setattr("prd_lightning.corpus.plan.file_stem", lambda prompt, seed: f"{prompt[:1].lower()}_seed{seed}")
    clashing = plan(tmp_path / "clashing", ["apple", "Axe", "bee"], seeds=(0, 1))
    stems = [clashing.stem(prompt, seed) for prompt, seed in clashing.all()]
    assert len(set(stems)) == 6 and stems[-2:] == ["b_seed0", "b_seed1"] and len(stems[0]) > 64


def test_what_is_left_is_what_is_neither_done_nor_there(tmp_path):
    made, journal = plan(tmp_path / "store", ["a", "b", "c", "d"]), Journal(tmp_path)
    journal.add([entry("a"), entry("b"), entry("c", "failed", error="no surface", attempts=2)])
    (tmp_path / "a.glb").touch()  # the file of b has been deleted
    numbers, attempts = made.remaining(journal)
    assert made.tasks(numbers) == [("b", 0), ("c", 0), ("d", 0)] and attempts == {("b", 0): 1, ("c", 0): 2}


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_processes_share_the_tasks_without_overlap_or_omission(tmp_path, ranks):
    made = plan(tmp_path / "store", [f"prompt {number}" for number in range(7)])
    shares = [Shares(made, numpy.arange(7), rank, ranks, batch_size=2) for rank in range(ranks)]
    found = [task for share in shares for index in range(len(share)) for task in share[index]]
    assert sorted(found) == sorted(made.all()) and len(found) == 7
    with pytest.raises(IndexError):
        shares[0][len(shares[0])]
