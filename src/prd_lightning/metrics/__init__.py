"""Metrics that know nothing of generators: CLIP similarity, retrieval, bootstrap intervals, geometry of meshes."""

from prd_lightning.metrics.bootstrap import Interval, bootstrap_interval
from prd_lightning.metrics.clip import CLIP_SCORE_WEIGHT, ClipJudge, clip_score
from prd_lightning.metrics.geometry import geometry_summary
from prd_lightning.metrics.retrieval import ranks

__all__ = ["CLIP_SCORE_WEIGHT", "ClipJudge", "Interval", "bootstrap_interval", "clip_score", "geometry_summary", "ranks"]
