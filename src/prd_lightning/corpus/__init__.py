"""Generation at scale: a corpus of prompts to a folder of meshes, by any number of processes and in any number of runs."""

from prd_lightning.corpus.journal import Entry, Journal
from prd_lightning.corpus.plan import CorpusPlan

__all__ = ["CorpusPlan", "Entry", "Journal"]
