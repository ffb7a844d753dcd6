"""The later time t+ at which asynchronous score distillation asks its student (Ma et al., ECCV 2024).

With the ratio r, u ~ U[0, 1] and T timesteps::

    curve    linear         d = r (t - t_min)
             proportional   d = r t
             root           d = r sqrt(t + offset)
    limit    before_draw    t+ = t + floor(u min(max(d, 0), T - 1 - t))
             after_draw     t+ = min(t + floor(u max(d, 0)), T - 1)

With ``before_draw`` every t+ up to the last timestep is as likely as any other; with ``after_draw`` the last one is more likely.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.errors import ConfigurationError

ShiftCurve = Literal["linear", "proportional", "root"]
ShiftLimit = Literal["before_draw", "after_draw"]


@dataclass(frozen=True)
class TimeShift:
    """How far t+ lies after t.

    Args:
        ratio: r; 0 means no shift.
        curve: see the module's docstring.
        offset: added under the root of the curve ``root``.
        limit: whether the room up to the last timestep limits the shift before u is drawn or after.

    Raises:
        ConfigurationError: an unknown curve or limit, or a negative number.
    """

    ratio: float = 0.0
    curve: ShiftCurve = "linear"
    offset: float = 0.0
    limit: ShiftLimit = "before_draw"

    def __post_init__(self) -> None:
        for name, kinds in (("curve", ShiftCurve), ("limit", ShiftLimit)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ConfigurationError(f"unknown {name} of the time shift {getattr(self, name)!r}; known: {known}")
        if self.ratio < 0 or self.offset < 0:
            raise ConfigurationError(f"a time shift's ratio and offset are not negative, got {self.ratio} and {self.offset}")

    def __call__(
        self, t: Int[Tensor, " samples"], t_min: int, share: Float[Tensor, " samples"] | float, num_timesteps: int
    ) -> Int[Tensor, " samples"]:
        """t+ of timesteps ``t``, never before them nor beyond the last timestep.

        Args:
            t: timesteps.
            t_min: the smallest timestep that is drawn now.
            share: u in [0, 1].
            num_timesteps: T.
        """
        if self.curve == "linear":
            shift = self.ratio * (t - t_min)
        elif self.curve == "proportional":
            shift = self.ratio * t
        else:
            shift = self.ratio * torch.sqrt(t + self.offset)
        room = num_timesteps - 1 - t
        shift = shift.clamp_min(0)
        if self.limit == "before_draw":
            shift = torch.minimum(shift, room.to(shift))
        return t + torch.minimum((shift * share).long(), room)


def shifted_time(
    t: Int[Tensor, " samples"], t_min: int, ratio: float, share: Float[Tensor, " samples"] | float, num_timesteps: int
) -> Int[Tensor, " samples"]:
    """t+ of the published shift, ``TimeShift(ratio)``."""
    return TimeShift(ratio)(t, t_min, share, num_timesteps)
