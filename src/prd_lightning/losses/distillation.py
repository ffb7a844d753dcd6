"""Score distillation in pure functions (design section 6; asynchronous score distillation: Ma et al., ECCV 2024).

A clean sample x is noised to x_t. With the teacher's guided prediction e_teacher and the student's e_student::

    e_teacher = e(0) + s (e(y) - e(0))
    e_student = e(y) at the later time t+ (``time_shift``) on the same noise ("asd")  |  the noise itself ("sds")
    gradient = w(t) (e_teacher - e_student)
             | sigma/alpha (e_teacher - e_student) / (mean |x - x0| + 0.1)                 ("dmd" and its variants)

where alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t), and x0 is the teacher's estimate from the clean x::

    dmd            x0 = (x - sigma e_teacher) / alpha
    dmd_later      x0 = (x - sigma+ e_later) / alpha+,   e_later = e(0) + s (e_student - e(0)), alpha+ and sigma+ those of t+
    dmd_mv, dmd_mv_later      the same, with the mean over the views of a prompt in the normaliser

In picture space (``picture_gradient``) the same direction is taken from decoded pictures X, X0 instead of latents, with the
estimate of the noised sample, x0 = (x_t - sigma e_teacher) / alpha (Zhu et al., HiFA, ICLR 2024, section 3.1)::

    gradient on X = (X - X0) / (mean |X - X0| + 0.05),   X0 = decode(x0),   pictures in [0, 1]

The ``dmd`` gradient is about of unit size at every noise level (after Yin et al., CVPR 2024, equation 8).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.errors import ConfigurationError

Weighting = Literal["uniform", "sds", "sds_sqrt", "fantasia3d", "dmd", "dmd_mv", "dmd_later", "dmd_mv_later"]
NORMALIZER_OFFSET = 0.1
PICTURE_OFFSET = 0.05
"""The same offset for pictures, whose range is [0, 1] instead of [-1, 1]."""


@dataclass(frozen=True)
class LaterEstimate:
    """The student's prediction at t+, guided as the teacher's is.

    Attributes:
        guided: e_later = e(0) + s (e_student - e(0)); e(0) is the prediction at t.
        alphas_cumprod: abar at t+ of each sample.
    """

    guided: Float[Tensor, "samples channels height width"]
    alphas_cumprod: Float[Tensor, " samples"]


def check_weighting(weighting: str) -> None:
    """Raises ConfigurationError for a name that is not a weighting."""
    if weighting not in get_args(Weighting):
        raise ConfigurationError(f"unknown weighting {weighting!r}; known: {', '.join(get_args(Weighting))}")


def distillation_gradient(
    clean: Float[Tensor, "samples channels height width"],
    teacher: Float[Tensor, "samples channels height width"],
    student: Float[Tensor, "samples channels height width"],
    alphas_cumprod: Float[Tensor, " samples"],
    weighting: Weighting = "dmd",
    views: int = 1,
    offset: float = NORMALIZER_OFFSET,
    later: LaterEstimate | None = None,
) -> Float[Tensor, "samples channels height width"]:
    """The gradient on the clean sample.

    Args:
        clean: x.
        teacher: e_teacher.
        student: e_student.
        alphas_cumprod: abar_t of each sample.
        weighting: w(t), see the module's docstring.
        views: adjacent samples that share a normaliser in ``dmd_mv`` and ``dmd_mv_later``.
        offset: added to the normaliser of ``dmd`` and its variants.
        later: of the normaliser of ``dmd_later`` and ``dmd_mv_later``.

    Raises:
        ConfigurationError: unknown weighting, or one that needs ``later`` and does not get it.
    """
    check_weighting(weighting)
    level = alphas_cumprod.view(-1, 1, 1, 1)
    alpha, sigma = level.sqrt(), (1 - level).sqrt()
    difference = teacher - student
    if weighting.startswith("dmd"):
        if weighting.endswith("_later"):
            if later is None:
                raise ConfigurationError(f"weighting {weighting!r} needs the guided prediction at the later time")
            level, teacher = later.alphas_cumprod.view(-1, 1, 1, 1), later.guided
        estimate = (clean - (1 - level).sqrt() * teacher) / level.sqrt()
        distance = (clean - estimate).abs().mean(dim=(1, 2, 3), keepdim=True)
        if weighting.startswith("dmd_mv"):
            distance = distance.unflatten(0, (-1, views)).mean(dim=1, keepdim=True).expand(-1, views, -1, -1, -1).flatten(0, 1)
        return sigma / alpha * difference / (distance + offset)
    factor = {
        "uniform": torch.ones_like(level),
        "sds": 1 - level,
        "sds_sqrt": sigma,
        "fantasia3d": alpha * (1 - level),
    }[weighting]
    return factor * difference


def picture_gradient(
    pictures: Float[Tensor, "samples channels height width"], estimate: Float[Tensor, "samples channels height width"]
) -> Float[Tensor, "samples channels height width"]:
    """The gradient on pictures in [0, 1] towards the teacher's ``estimate`` of them, about of unit size.

    An autoencoder weighs colours unequally: a latent may move a lot with brightness and hardly with the blue channel. Descent in
    latents inherits that and leaves the weak direction behind; a residual of pictures treats the channels alike.
    """
    residual = pictures - estimate
    return residual / (residual.abs().mean(dim=(1, 2, 3), keepdim=True) + PICTURE_OFFSET)
