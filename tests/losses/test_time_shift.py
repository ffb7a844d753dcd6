"""The later time of asynchronous score distillation in closed form."""

import pytest
import torch

from prd_lightning.configuration import compose_config
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import TimeShift, shifted_time
from prd_lightning.tinyworld import weights_folder


def test_shifted_time_in_closed_form():
    t = torch.tensor([100, 600, 990])
    assert shifted_time(t, 100, 0.1, 1.0, 1000).tolist() == [100, 650, 999]
    assert shifted_time(t, 100, 0.1, 0.0, 1000).tolist() == [100, 600, 990]
    assert shifted_time(t, 100, 0.1, torch.tensor([1.0, 0.5, 0.5]), 1000).tolist() == [100, 625, 994]
    assert shifted_time(t, 100, 0.0, 1.0, 1000).tolist() == t.tolist()


def test_shifted_time_never_goes_back():
    assert shifted_time(torch.tensor([50]), 100, 0.5, 1.0, 1000).tolist() == [50]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ratio": 0.1, "curve": "proportional"}, [110, 660, 999]),
        ({"ratio": 0.5, "curve": "root"}, [105, 612, 999]),
        ({"ratio": 1.0, "curve": "root", "offset": 44.0}, [112, 625, 999]),
        ({"ratio": 0.1, "limit": "after_draw"}, [100, 650, 999]),
    ],
)
def test_other_curves(settings: dict, expected: list[int]):
    assert TimeShift(**settings)(torch.tensor([100, 600, 990]), 100, 1.0, 1000).tolist() == expected


def test_where_the_draw_is_limited():
    """From 900 the shift would be 400 but there is room for 99: half of 99, or half of 400 cut to 99."""
    t = torch.tensor([900])
    assert TimeShift(0.5)(t, 100, 0.5, 1000).tolist() == [949]
    assert TimeShift(0.5, limit="after_draw")(t, 100, 0.5, 1000).tolist() == [999]
    assert TimeShift(0.5, limit="after_draw")(torch.tensor([50]), 100, 0.5, 1000).tolist() == [50]


@pytest.mark.parametrize("settings", [{"curve": "cubic"}, {"limit": "never"}, {"ratio": -0.1}, {"offset": -1.0}])
def test_mistakes_in_a_shift_are_named(settings: dict):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        TimeShift(**settings)


@pytest.mark.parametrize(("name", "inverse"), [("stable_diffusion", 20), ("mvdream", 23), ("richdreamer_nd", 21)])
def test_how_much_smaller_the_ablation_s_gradient_is_by_the_formula_of_the_docs(name: str, inverse: int):
    """docs/ablations.md: the mean of 1 - (alpha+ sigma)/(alpha sigma+) over the noise levels and shifts of ``latent_asd``."""
    teacher = compose_config(["sweep=ablations", "ablation=latent_asd"]).teacher[name]
    levels = NoiseSchedule.from_folder(weights_folder(name) / "scheduler").alphas_cumprod.double()
    ratio, last = (levels / (1 - levels)).sqrt(), len(levels)
    every_t, shares = torch.arange(int(teacher.t_min * last), int(teacher.t_max * last) + 1), (torch.arange(400) + 0.5) / 400
    t = every_t.repeat_interleave(len(shares))
    later = TimeShift(teacher.shift_ratio)(t, int(every_t[0]), shares.repeat(len(every_t)), last)
    assert round(1 / float((1 - ratio[later] / ratio[t]).mean())) == inverse
