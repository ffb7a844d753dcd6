"""Prompt streams and the data module."""

from prd_lightning.data.batch import PromptBatch
from prd_lightning.data.datamodule import PromptDataModule
from prd_lightning.data.prompts import FilePrompts, GrammarPrompts, HuggingFacePrompts, ListPrompts, PromptSource
from prd_lightning.data.store import PromptStore
from prd_lightning.data.stream import PromptStream

__all__ = [
    "FilePrompts",
    "GrammarPrompts",
    "HuggingFacePrompts",
    "ListPrompts",
    "PromptBatch",
    "PromptDataModule",
    "PromptSource",
    "PromptStore",
    "PromptStream",
]
