"""Sweeps: one record for each training, and a table over all trainings under one root."""

from prd_lightning.sweeps.runs import JOB_FILE, Run, find_runs, read_run
from prd_lightning.sweeps.summary import Statistic, Summary, Variant, summarize

__all__ = ["JOB_FILE", "Run", "Statistic", "Summary", "Variant", "find_runs", "read_run", "summarize"]
