"""Frozen diffusion models that score rendered pictures."""

from prd_lightning.teachers.base import DiffusionTeacher, Teacher
from prd_lightning.teachers.exchange import TeacherResult, surrogate_loss
from prd_lightning.teachers.mix import ask_teachers, check_teachers
from prd_lightning.teachers.mvdream import MVDreamTeacher
from prd_lightning.teachers.richdreamer import NormalDepthTeacher
from prd_lightning.teachers.stable_diffusion import StableDiffusionTeacher

__all__ = [
    "DiffusionTeacher",
    "MVDreamTeacher",
    "NormalDepthTeacher",
    "StableDiffusionTeacher",
    "Teacher",
    "TeacherResult",
    "ask_teachers",
    "check_teachers",
    "surrogate_loss",
]
