"""How texts and pictures become scores: correctly, or exactly as the script that came with the published method did.

That script (``evaluation/clipscore`` of TriplaneTurbo) departs from what it says in three ways:

* its prefix "A photo depicts" is put before the prompt without a space ("A photo depictsa bald eagle ..."),
* its scores are kept in a table by the name of the view, so that each prompt overwrites the one before, and the mean that it
  prints is that of the last prompt's views,
* it sees only meshes that exist, so a prompt that failed counts nowhere.

``published`` does the same, reports the printed number as ``clip_score_as_printed``, and the mean over all prompts beside it.
"""

from dataclasses import dataclass

from prd_lightning.errors import ConfigurationError

PREFIX = "A photo depicts"
PROTOCOLS = ("correct", "published")


@dataclass(frozen=True)
class Protocol:
    """What is compared with what.

    Attributes:
        name: ``correct`` or ``published``.
        prefix: put before every prompt; empty for the prompt alone.
        recall_at: the k of R@k.
    """

    name: str = "correct"
    prefix: str = PREFIX
    recall_at: tuple[int, ...] = (1, 5)

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ConfigurationError(f"unknown protocol {self.name!r}; known: {', '.join(PROTOCOLS)}")
        if not self.recall_at or min(self.recall_at) < 1:
            raise ConfigurationError(f"R@k needs k of at least 1, got {list(self.recall_at)}")

    @property
    def counts_failures(self) -> bool:
        """Whether a prompt without a usable mesh has the score 0."""
        return self.name == "correct"

    def text(self, prompt: str) -> str:
        """What the text tower reads."""
        if self.name == "published":
            return self.prefix + prompt
        return f"{self.prefix.rstrip()} {prompt}".strip()
