"""Loss terms in pure functions: score distillation, regularizers, and schedules of their weights."""

from prd_lightning.losses.distillation import Weighting, check_weighting, distillation_gradient, shifted_time
from prd_lightning.losses.regularizers import eikonal, sparsity
from prd_lightning.losses.schedules import Schedule, scheduled

__all__ = [
    "Schedule",
    "Weighting",
    "check_weighting",
    "distillation_gradient",
    "eikonal",
    "scheduled",
    "shifted_time",
    "sparsity",
]
