"""Loss terms in pure functions: score distillation, regularizers, and schedules of their weights."""

from prd_lightning.losses.distillation import LaterEstimate, Weighting, check_weighting, distillation_gradient, picture_gradient
from prd_lightning.losses.regularizers import eikonal, sparsity
from prd_lightning.losses.schedules import Schedule, TrainingStep, scheduled
from prd_lightning.losses.time_shift import ShiftCurve, ShiftLimit, TimeShift, shifted_time

__all__ = [
    "LaterEstimate",
    "Schedule",
    "ShiftCurve",
    "ShiftLimit",
    "TimeShift",
    "TrainingStep",
    "Weighting",
    "check_weighting",
    "distillation_gradient",
    "eikonal",
    "picture_gradient",
    "scheduled",
    "shifted_time",
    "sparsity",
]
