"""Prompts of Hugging Face datasets."""

from collections.abc import Iterator

from prd_lightning.data.source import OnError, PromptSource
from prd_lightning.errors import BackendUnavailableError, PromptError

_ROWS_AT_ONCE = 1024


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
        index = 0
        for rows in self._rows.iter(_ROWS_AT_ONCE):
            if self.column not in rows:
                raise PromptError(f"dataset {self.dataset!r} has no column {self.column!r}; it has {', '.join(rows)}")
            for value in rows[self.column]:
                yield from self._checked(value, f"{self.dataset}, row {index}")
                index += 1
