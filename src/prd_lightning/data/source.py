"""What a stream of prompts is. A source is iterated from its start each time and never holds more than a line or a row group.

Every source reports bad entries by file and position; ``on_error`` says whether they stop the stream or are left out and counted.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

from prd_lightning.data.store import PromptStore
from prd_lightning.errors import ConfigurationError, PromptError

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

    def snapshot(self) -> PromptStore | None:
        """A numbered copy of all prompts on disk, out of reach of later changes; None if the source can only be streamed."""
        return None

    def _bad_entry(self, message: str) -> None:
        if self.on_error == "raise":
            raise PromptError(f"{message}; mend it, or set data.source.on_error=skip to leave such entries out")
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
