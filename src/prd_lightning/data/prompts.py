"""Streams of prompts. A source is iterated from its start each time and never holds more than a line or a row group.

Every source reports bad entries by file and position; ``on_error`` says whether they stop the stream or are left out and counted.
"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import ijson

from prd_lightning.errors import BackendUnavailableError, ConfigurationError, PromptError
from prd_lightning.tinyworld import grammar

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]


class PromptSource(ABC):
    """A stream of prompts.

    Args:
        on_error: ``raise`` stops at a bad entry, ``skip`` counts it, logs the first one, and goes on.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigurationError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.on_error, self.skipped_count = on_error, 0

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """Prompts from the start."""

    def _bad_entry(self, message: str) -> None:
        if self.on_error == "raise":
            raise PromptError(f"{message}; mend it, or set data.on_error=skip to leave such entries out")
        if not self.skipped_count:
            logger.warning("%s; it is left out, later ones are only counted", message)
        self.skipped_count += 1

    def _checked(self, value: object, place: str) -> Iterator[str]:
        """The prompt if ``value`` is one."""
        if not isinstance(value, str):
            self._bad_entry(f"{place}: a prompt must be text, got {type(value).__name__} {value!r:.80}")
        elif not value.strip():
            self._bad_entry(f"{place}: the prompt is blank")
        else:
            yield value.strip()


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
    """Prompts of a file: ``.txt`` (one per line), ``.jsonl``, ``.json`` or ``.parquet``.

    JSON entries are texts or objects with the text under ``column``; a ``.json`` file is an array of entries, or an object that
    holds one.

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
        self._readers = {".txt": self._text, ".jsonl": self._json_lines, ".json": self._json, ".parquet": self._parquet}
        if self.path.suffix not in self._readers:
            raise PromptError(
                f"prompt file {self.path} has the unknown suffix {self.path.suffix!r}; known: {', '.join(self._readers)}"
            )
        if not self.path.is_file():
            raise PromptError(f"there is no prompt file {self.path}")
        if self.path.stat().st_size == 0:
            raise PromptError(f"the prompt file {self.path} is empty; write one prompt per line")

    def __iter__(self) -> Iterator[str]:
        """See ``PromptSource``."""
        return self._readers[self.path.suffix]()

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Lines that are not empty, with their place."""
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                place = f"{self.path}, line {number}"
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    self._bad_entry(f"{place}: not UTF-8 text ({error.reason})")
                    continue
                if line:
                    yield place, line

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
                    f"{place}: no {self.column!r} among the keys {sorted(entry)}; name the right one with data.column"
                )
                return
            entry = entry[self.column]
        yield from self._checked(entry, place)

    def _json(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                array = next((prefix for prefix, event, _ in ijson.parse(file) if event == "start_array"), None)
            if array is None:
                raise PromptError(f"{self.path} holds no array of prompts")
            with self.path.open("rb") as file:
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


class HuggingFacePrompts(PromptSource):
    """Prompts of a Hugging Face dataset, streamed.

    Args:
        dataset: name on the hub, or a local folder or loader script's name (``json``, ``csv``, ...).
        split: of the dataset.
        column: of the text.
        options: further arguments of ``datasets.load_dataset``, e.g. ``data_files``.
        on_error: see ``PromptSource``.
    """

    def __init__(
        self, dataset: str, split: str = "train", column: str = "prompt", options: dict | None = None, on_error: OnError = "raise"
    ) -> None:
        super().__init__(on_error)
        try:
            import datasets
        except ImportError as error:
            raise BackendUnavailableError("Hugging Face datasets need: pip install 'prd_lightning[data]'") from error
        self.dataset, self.column = dataset, column
        try:
            self._rows = datasets.load_dataset(dataset, split=split, streaming=True, **dict(options or {}))
        except (FileNotFoundError, ValueError, ConnectionError, OSError) as error:
            raise PromptError(f"the dataset {dataset!r} (split {split!r}) cannot be opened: {error}") from error

    def __iter__(self) -> Iterator[str]:
        """See ``PromptSource``."""
        for index, row in enumerate(self._rows):
            if self.column not in row:
                raise PromptError(f"dataset {self.dataset!r} has no column {self.column!r}; it has {', '.join(row)}")
            yield from self._checked(row[self.column], f"{self.dataset}, row {index}")
