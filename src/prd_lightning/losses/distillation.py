"""Score distillation in pure functions (design section 6; asynchronous score distillation: Ma et al., ECCV 2024).

A clean sample x is noised to x_t. With the teacher's guided prediction e_teacher and the student's e_student::

    e_teacher = e(0) + s (e(y) - e(0))
    e_student = e(y) at the later time t+ on the same noise ("asd")  |  the noise itself ("sds")
    t+ = t + min(r (t - t_min), T - 1 - t) u,   u ~ U[0, 1]
    gradient = w(t) (e_teacher - e_student)
             | sigma/alpha (e_teacher - e_student) / (mean |x - x0_teacher| + 0.1)                             ("dmd", "dmd_mv")

where alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t) and ``x0_teacher = (x - sigma e_teacher) / alpha`` is formed from the
clean x.
The ``dmd`` gradient is about of unit size at every noise level (after Yin et al., CVPR 2024, equation 8).
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.errors import ConfigurationError

Weighting = Literal["uniform", "sds", "sds_sqrt", "fantasia3d", "dmd", "dmd_mv"]
NORMALIZER_OFFSET = 0.1


def check_weighting(weighting: str) -> None:
    """Raises ConfigurationError for a name that is not a weighting."""
    if weighting not in get_args(Weighting):
        raise ConfigurationError(f"unknown weighting {weighting!r}; known: {', '.join(get_args(Weighting))}")


def shifted_time(
    t: Int[Tensor, " samples"], t_min: int, ratio: float, share: Float[Tensor, " samples"] | float, num_timesteps: int
) -> Int[Tensor, " samples"]:
    """t+ of asynchronous score distillation, never before ``t`` nor beyond the last timestep.

    Args:
        t: timesteps.
        t_min: the smallest timestep that is drawn now.
        ratio: r; 0 means no shift.
        share: u in [0, 1].
        num_timesteps: T.
    """
    latest = (t + ratio * (t - t_min).clamp_min(0)).clamp_max(num_timesteps - 1)
    return (t + (latest - t) * share).long()


def distillation_gradient(
    clean: Float[Tensor, "samples channels height width"],
    teacher: Float[Tensor, "samples channels height width"],
    student: Float[Tensor, "samples channels height width"],
    alphas_cumprod: Float[Tensor, " samples"],
    weighting: Weighting = "dmd",
    views: int = 1,
    offset: float = NORMALIZER_OFFSET,
) -> Float[Tensor, "samples channels height width"]:
    """The gradient on the clean sample.

    Args:
        clean: x.
        teacher: e_teacher.
        student: e_student.
        alphas_cumprod: abar_t of each sample.
        weighting: w(t), see the module's docstring.
        views: adjacent samples that share a normaliser in ``dmd_mv``.
        offset: added to the normaliser of ``dmd`` and ``dmd_mv``.

    Raises:
        ConfigurationError: unknown weighting.
    """
    check_weighting(weighting)
    level = alphas_cumprod.view(-1, 1, 1, 1)
    alpha, sigma = level.sqrt(), (1 - level).sqrt()
    difference = teacher - student
    if weighting in ("dmd", "dmd_mv"):
        estimate = (clean - sigma * teacher) / alpha
        distance = (clean - estimate).abs().mean(dim=(1, 2, 3), keepdim=True)
        if weighting == "dmd_mv":
            distance = distance.unflatten(0, (-1, views)).mean(dim=1, keepdim=True).expand(-1, views, -1, -1, -1).flatten(0, 1)
        return sigma / alpha * difference / (distance + offset)
    factor = {
        "uniform": torch.ones_like(level),
        "sds": 1 - level,
        "sds_sqrt": sigma,
        "fantasia3d": alpha * (1 - level),
    }[weighting]
    return factor * difference
