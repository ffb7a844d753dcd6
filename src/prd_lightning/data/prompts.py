"""Where prompts come from: Python lists, the tiny world's grammar, files. ``data.huggingface`` streams datasets."""

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import ijson

from prd_lightning.data.huggingface import HuggingFacePrompts
from prd_lightning.data.source import OnError, PromptSource
from prd_lightning.data.store import PromptStore, stored
from prd_lightning.errors import BackendUnavailableError, PromptError
from prd_lightning.tinyworld import grammar

__all__ = ["FilePrompts", "GrammarPrompts", "HuggingFacePrompts", "ListPrompts", "OnError", "PromptSource"]

COMPRESSED = ".gz"
DELIMITERS = {".csv": ",", ".tsv": "\t"}


class ListPrompts(PromptSource):
    """Prompts given in Python or in a configuration."""

    def __init__(self, prompts: list[str], on_error: OnError = "raise") -> None:
        super().__init__(on_error)
        self.prompts = list(prompts)

    def __iter__(self) -> Iterator[str]:
        """See ``PromptSource``."""
        for index, prompt in enumerate(self.prompts):
            yield from self._checked(prompt, f"prompt {index}")


class GrammarPrompts(PromptSource):
    """Paraphrased prompts of the tiny world, without end for the training split.

    Args:
        split: ``train`` or ``held_out``.
        compositions: share of two-part scenes.
        seed: of the draws.
    """

    def __init__(self, split: str = "train", compositions: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        next(grammar.prompt_stream(split, compositions, seed))
        self.split, self.compositions, self.seed = split, compositions, seed

    def __iter__(self) -> Iterator[str]:
        """See ``PromptSource``."""
        return grammar.prompt_stream(self.split, self.compositions, self.seed)


class FilePrompts(PromptSource):
    """Prompts of a file: ``.txt`` (one per line), ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet``; all but the last
    also compressed with gzip (``.txt.gz``).

    JSON entries are texts or objects with the text under ``column``; a ``.json`` file is an array of entries, or an object that
    holds one. Tables have a line of column names.

    Args:
        path: of the file.
        column: name of the text in objects and tables.
        on_error: see ``PromptSource``.

    Raises:
        PromptError: the file does not exist, is empty, or has an unknown suffix.
    """

    def __init__(self, path: str | Path, column: str = "prompt", on_error: OnError = "raise") -> None:
        super().__init__(on_error)
        self.path, self.column = Path(path).expanduser(), column
        self.is_compressed = self.path.suffix == COMPRESSED
        self.kind = self.path.with_suffix("").suffix if self.is_compressed else self.path.suffix
        self._readers = {
            ".txt": self._text,
            ".jsonl": self._json_lines,
            ".json": self._json,
            ".parquet": self._parquet,
            ".csv": self._table,
            ".tsv": self._table,
        }
        if self.kind not in self._readers or (self.is_compressed and self.kind == ".parquet"):
            suffix = "".join(self.path.suffixes[-2:]) if self.is_compressed else self.path.suffix
            raise PromptError(
                f"prompt file {self.path} has the unknown suffix {suffix!r}; known: {', '.join(self._readers)}, and all but "
                f".parquet with {COMPRESSED} behind it"
            )
        if not self.path.is_file():
            raise PromptError(f"there is no prompt file {self.path}")
        if self.path.stat().st_size == 0:
            raise PromptError(f"the prompt file {self.path} is empty; write one prompt per line")

    def __iter__(self) -> Iterator[str]:
        """See ``PromptSource``."""
        try:
            yield from self._readers[self.kind]()
        except FileNotFoundError as error:
            raise PromptError(f"the prompt file {self.path} has disappeared") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise PromptError(f"{self.path} is not a complete gzip file: {error}") from error

    def snapshot(self) -> PromptStore:
        """See ``PromptSource``: a copy of this version of the file in the cache.

        Raises:
            PromptError: an entry is bad, or the file changed while it was read.
        """
        before = self._version()
        skipped = _Counter(self)
        store = stored(("file", self.path.resolve(), *before, self.column, self.on_error), self, skipped)
        if self._version() != before:
            raise PromptError(f"the prompt file {self.path} changed while it was read; start again once it is complete")
        self.skipped_count = store.skipped_count
        return store

    def _version(self) -> tuple[int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise PromptError(f"the prompt file {self.path} has disappeared") from error
        return found.st_size, found.st_mtime_ns

    def _open(self) -> BinaryIO:
        return gzip.open(self.path, "rb") if self.is_compressed else self.path.open("rb")

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Lines that are not empty, with their place."""
        with self._open() as file:
            for number, raw in enumerate(file, start=1):
                place = f"{self.path}, line {number}"
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    self._bad_entry(f"{place}: not UTF-8 text ({error.reason})")
                    continue
                if line:
                    yield place, line

    def _table(self) -> Iterator[str]:
        with self._open() as file:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.reader(text, delimiter=DELIMITERS[self.kind])
            names = next(rows, [])
            if self.column not in names:
                raise PromptError(
                    f"{self.path} has no column {self.column!r}; it has {', '.join(names)}; name the right one with "
                    "data.source.column"
                )
            index = names.index(self.column)
            try:
                for row in rows:
                    if row:
                        yield from self._cell(row, index, f"{self.path}, line {rows.line_num}")
            except csv.Error as error:
                raise PromptError(f"{self.path}, line {rows.line_num}: {error}") from error

    def _cell(self, row: list[str], index: int, place: str) -> Iterator[str]:
        if index >= len(row):
            self._bad_entry(f"{place}: {len(row)} cells, so none in the column {self.column!r}")
        elif any("\udc80" <= letter <= "\udcff" for letter in row[index]):
            self._bad_entry(f"{place}: not UTF-8 text")
        else:
            yield from self._checked(row[index], place)

    def _text(self) -> Iterator[str]:
        for place, line in self._lines():
            yield from self._checked(line, place)

    def _json_lines(self) -> Iterator[str]:
        for place, line in self._lines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                self._bad_entry(f"{place}: not valid JSON ({error.msg})")
                continue
            yield from self._entry(entry, place)

    def _entry(self, entry: object, place: str) -> Iterator[str]:
        if isinstance(entry, dict):
            if self.column not in entry:
                self._bad_entry(
                    f"{place}: no {self.column!r} among the keys {sorted(entry)}; name the right one with data.source.column"
                )
                return
            entry = entry[self.column]
        yield from self._checked(entry, place)

    def _json(self) -> Iterator[str]:
        try:
            with self._open() as file:
                array = next((prefix for prefix, event, _ in ijson.parse(file) if event == "start_array"), None)
            if array is None:
                raise PromptError(f"{self.path} holds no array of prompts")
            with self._open() as file:
                for index, entry in enumerate(ijson.items(file, f"{array}.item" if array else "item")):
                    yield from self._entry(entry, f"{self.path}, entry {index}")
        except ijson.JSONError as error:
            raise PromptError(f"{self.path} is not valid JSON: {error}") from error

    def _parquet(self) -> Iterator[str]:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise BackendUnavailableError("parquet files need pyarrow: pip install 'prd_lightning[data]'") from error
        try:
            table = parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise PromptError(f"{self.path} is not a readable parquet file: {error}") from error
        if self.column not in table.schema_arrow.names:
            raise PromptError(f"{self.path} has no column {self.column!r}; it has {', '.join(table.schema_arrow.names)}")
        row = 0
        for batch in table.iter_batches(batch_size=1024, columns=[self.column]):
            for value in batch.column(0).to_pylist():
                yield from self._checked(value, f"{self.path}, row {row}")
                row += 1


class _Counter:
    """Its length is the number of bad entries that a source has left out so far."""

    def __init__(self, source: PromptSource) -> None:
        self.source, self.before = source, source.skipped_count

    def __len__(self) -> int:
        return self.source.skipped_count - self.before
