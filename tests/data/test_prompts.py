"""Prompt streams: every kind of file, bad entries by place, and never more than a little of the corpus at once."""

import csv
import gzip
import itertools
import json
import logging
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from prd_lightning.data import FilePrompts, GrammarPrompts, HuggingFacePrompts, ListPrompts
from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.tinyworld.grammar import is_held_out, parse

PROMPTS = ["a red cube", "ein grüner Würfel", "a cone, blue"]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"prompts.{kind}"
    entries = [PROMPTS[0], {"prompt": PROMPTS[1], "id": 3}, {"prompt": PROMPTS[2]}]
    if kind == "txt":
        path.write_text("\n".join(["", PROMPTS[0], "", f"  {PROMPTS[1]} ", PROMPTS[2]]), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(entries))
    elif kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="," if kind == "csv" else "\t").writerows([("id", "prompt"), *enumerate(PROMPTS)])
    else:
        parquet.write_table(pyarrow.table({"prompt": PROMPTS, "id": [1, 2, 3]}), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "parquet", "csv", "tsv"])
def test_every_kind_of_file_is_read_and_read_again(tmp_path: Path, kind: str):
    source = FilePrompts(write(tmp_path, kind))
    assert list(source) == list(source) == PROMPTS


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv"])
def test_compressed_files_are_read(tmp_path: Path, kind: str):
    plain = write(tmp_path, kind)
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(FilePrompts(packed)) == PROMPTS
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(PromptError, match="prompts.*gz is not a complete gzip file"):
        list(FilePrompts(packed))


def test_cells_that_span_lines_or_are_not_utf8(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt\n"a cube,\non a disk"\n\xff\n')
    stream = iter(FilePrompts(path))
    assert next(stream) == "a cube,\non a disk"
    with pytest.raises(PromptError, match="line 4: not UTF-8"):
        next(stream)
    with pytest.raises(PromptError, match="no column 'caption'; it has prompt; name the right one with data.source.column"):
        list(FilePrompts(path, column="caption"))


def test_an_array_inside_an_object_and_another_column(tmp_path: Path):
    path = tmp_path / "nested.json"
    path.write_text(json.dumps({"meta": {"n": 1}, "rows": [{"caption": text} for text in PROMPTS]}))
    assert list(FilePrompts(path, column="caption")) == PROMPTS


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa cube\r\na cone\r\n".encode())
    assert list(FilePrompts(path)) == ["a cube", "a cone"]


BAD_LINES = {
    "txt": (b"a cube\n   \na cone\n", "line 2: the prompt is blank"),
    "jsonl": (b'"a cube"\n{"prompt": \n"a cone"\n', "line 2: not valid JSON"),
    "json": (b'["a cube", 7, "a cone"]', "entry 1: a prompt must be text, got int 7"),
    "csv": (b'id,prompt\n1,a cube\n2,"  "\n3,a cone\n', "line 3: the prompt is blank"),
    "tsv": (b"id\tprompt\n1\ta cube\n2\n3\ta cone\n", "line 3: 1 cells, so none in the column 'prompt'"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_entry_stops_the_stream_with_file_and_place(tmp_path: Path, kind: str):
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(BAD_LINES[kind][0])
    stream = iter(FilePrompts(path))
    assert next(stream) == "a cube"
    with pytest.raises(PromptError, match=BAD_LINES[kind][1]) as caught:
        next(stream)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_entries_are_left_out_and_counted_if_wanted(tmp_path: Path, kind: str):
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(BAD_LINES[kind][0])
    source = FilePrompts(path, on_error="skip")
    assert list(source) == ["a cube", "a cone"]
    assert source.skipped_count == 1


def test_the_first_skipped_entry_is_logged_and_later_ones_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "x"}\n\xff\xfe\n[1]\n"a cone"\n')
    source = FilePrompts(path, on_error="skip")
    with caplog.at_level(logging.WARNING):
        assert list(source) == ["a cone"]
    assert source.skipped_count == 3
    assert len(caplog.records) == 1 and "line 1: no 'prompt' among the keys ['text']" in caplog.text


def test_a_null_in_a_table_is_a_bad_entry(tmp_path: Path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a cube", None, "a cone"]}), path)
    with pytest.raises(PromptError, match="row 1: a prompt must be text"):
        list(FilePrompts(path))
    assert list(FilePrompts(path, on_error="skip")) == ["a cube", "a cone"]


def test_files_that_cannot_be_used_are_named(tmp_path: Path):
    with pytest.raises(PromptError, match="no prompt file .*missing.txt"):
        FilePrompts(tmp_path / "missing.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(PromptError, match="empty.txt is empty"):
        FilePrompts(tmp_path / "empty.txt")
    for name, suffix in (("table.docx", ".docx"), ("table.parquet.gz", ".parquet.gz"), ("some.gz", ".gz")):
        (tmp_path / name).write_text("a")
        with pytest.raises(PromptError, match=f"unknown suffix '{suffix}'; known: .txt, .jsonl, .json, .parquet, .csv, .tsv"):
            FilePrompts(tmp_path / name)
    for name, content, message in (
        ("broken.json", '["a", ', "broken.json is not valid JSON"),
        ("none.json", '{"a": 1}', "holds no array"),
        ("broken.parquet", "no table", "not a readable parquet file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(PromptError, match=message):
            list(FilePrompts(tmp_path / name))
    with pytest.raises(PromptError, match="no column 'caption'; it has prompt, id"):
        list(FilePrompts(write(tmp_path, "parquet"), column="caption"))
    with pytest.raises(ConfigurationError, match="'raise' or 'skip', got 'ignore'"):
        ListPrompts(["a"], on_error="ignore")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json"])
def test_a_stream_starts_before_the_end_of_its_file_is_read(tmp_path: Path, kind: str):
    """The end of the file is broken; whoever reads ahead, or the whole of it, fails on the first prompt."""
    path = tmp_path / f"large.{kind}"
    line = {"txt": "a red cube\n", "jsonl": '"a red cube"\n', "json": '"a red cube",\n'}[kind].encode()
    path.write_bytes((b"[" if kind == "json" else b"") + line * 100_000 + b"\xff{{{")
    assert list(itertools.islice(FilePrompts(path), 1000)) == ["a red cube"] * 1000
    with pytest.raises(PromptError):
        list(FilePrompts(path))


def test_a_hugging_face_dataset_from_local_files(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"caption": text}) for text in PROMPTS), encoding="utf-8")
    source = HuggingFacePrompts("json", column="caption", options={"data_files": str(path)})
    assert list(source) == list(source) == PROMPTS
    with pytest.raises(PromptError, match="no column 'prompt'; it has caption"):
        list(HuggingFacePrompts("json", options={"data_files": str(path)}))


def test_a_hugging_face_dataset_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(PromptError, match="cannot be opened"):
        HuggingFacePrompts("json", options={"data_files": str(tmp_path / "nothing.jsonl")})


def test_grammar_prompts_are_of_their_split_and_deterministic():
    prompts = list(itertools.islice(GrammarPrompts("train", 0.5, seed=3), 300))
    assert prompts == list(itertools.islice(GrammarPrompts("train", 0.5, seed=3), 300))
    assert prompts != list(itertools.islice(GrammarPrompts("train", 0.5, seed=4), 300))
    assert not any(is_held_out(parse(prompt)) for prompt in prompts)
    assert all(is_held_out(parse(prompt)) for prompt in GrammarPrompts("held_out"))
    with pytest.raises(ConfigurationError, match="unknown split 'test'"):
        GrammarPrompts("test")
