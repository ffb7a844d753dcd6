"""The distillation gradient against its formulas, written out sample by sample."""

import pytest
import torch

from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import LaterEstimate, check_weighting, distillation_gradient

SHAPE = (4, 2, 3, 3)


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean samples, teacher, student, noise levels (two prompts of two views, one level for each)."""
    clean, teacher, student = (torch.randn(SHAPE, dtype=torch.float64) for _ in range(3))
    return clean, teacher, student, torch.tensor([0.9, 0.9, 0.2, 0.2], dtype=torch.float64)


@pytest.mark.parametrize(
    ("weighting", "factor"),
    [
        ("uniform", lambda level: 1.0),
        ("sds", lambda level: 1 - level),
        ("sds_sqrt", lambda level: (1 - level) ** 0.5),
        ("fantasia3d", lambda level: level**0.5 * (1 - level)),
    ],
)
def test_simple_weightings(given: tuple, weighting: str, factor):
    clean, teacher, student, levels = given
    actual = distillation_gradient(clean, teacher, student, levels, weighting)
    for index, level in enumerate(levels.tolist()):
        torch.testing.assert_close(actual[index], factor(level) * (teacher[index] - student[index]))


def distance_to_estimate(clean: torch.Tensor, teacher: torch.Tensor, level: float) -> float:
    estimate = (clean - (1 - level) ** 0.5 * teacher) / level**0.5
    return float((clean - estimate).abs().mean())


@pytest.mark.parametrize("offset", [0.1, 1.0])
@pytest.mark.parametrize("weighting", ["dmd", "dmd_mv"])
def test_dmd_weightings(given: tuple, weighting: str, offset: float):
    clean, teacher, student, levels = given
    actual = distillation_gradient(clean, teacher, student, levels, weighting, views=2, offset=offset)
    distances = [distance_to_estimate(clean[i], teacher[i], level) for i, level in enumerate(levels.tolist())]
    if weighting == "dmd_mv":
        distances = [0.5 * (distances[i // 2 * 2] + distances[i // 2 * 2 + 1]) for i in range(4)]
    for index, level in enumerate(levels.tolist()):
        factor = ((1 - level) / level) ** 0.5 / (distances[index] + offset)
        torch.testing.assert_close(actual[index], factor * (teacher[index] - student[index]))


@pytest.mark.parametrize("weighting", ["dmd_later", "dmd_mv_later"])
def test_dmd_weightings_that_normalise_at_the_later_time(given: tuple, weighting: str):
    clean, teacher, student, levels = given
    guided, later = torch.randn(SHAPE, dtype=torch.float64), torch.tensor([0.8, 0.8, 0.1, 0.1], dtype=torch.float64)
    actual = distillation_gradient(clean, teacher, student, levels, weighting, views=2, later=LaterEstimate(guided, later))
    distances = [distance_to_estimate(clean[i], guided[i], level) for i, level in enumerate(later.tolist())]
    if weighting == "dmd_mv_later":
        distances = [0.5 * (distances[i // 2 * 2] + distances[i // 2 * 2 + 1]) for i in range(4)]
    for index, level in enumerate(levels.tolist()):
        factor = ((1 - level) / level) ** 0.5 / (distances[index] + 0.1)
        torch.testing.assert_close(actual[index], factor * (teacher[index] - student[index]))
    with pytest.raises(ConfigurationError, match="later time"):
        distillation_gradient(clean, teacher, student, levels, weighting)


def test_dmd_is_the_difference_of_two_clean_estimates(given: tuple):
    clean, teacher, student, levels = given
    level = levels.view(-1, 1, 1, 1)
    estimates = [(clean - (1 - level).sqrt() * noise) / level.sqrt() for noise in (teacher, student)]
    normalizer = (clean - estimates[0]).abs().mean(dim=(1, 2, 3), keepdim=True) + 0.1
    torch.testing.assert_close(distillation_gradient(clean, teacher, student, levels), (estimates[1] - estimates[0]) / normalizer)


def test_no_gradient_where_teacher_and_student_agree(given: tuple):
    clean, teacher, _, levels = given
    assert not distillation_gradient(clean, teacher, teacher, levels).any()


def test_unknown_weighting_is_refused(given: tuple):
    with pytest.raises(ConfigurationError, match="unknown weighting 'dmd2'; known: uniform"):
        check_weighting("dmd2")
    with pytest.raises(ConfigurationError, match="dmd2"):
        distillation_gradient(*given, weighting="dmd2")


def test_where_a_teacher_s_estimate_stays_the_same_asynchronous_distillation_is_plain_and_smaller(given: tuple):
    clean, estimate, noise, levels = given
    later = 0.8 * levels

    def signal_to_noise(level: torch.Tensor) -> torch.Tensor:
        return (level / (1 - level)).sqrt().view(-1, 1, 1, 1)

    def predicted(level: torch.Tensor) -> torch.Tensor:
        return noise + signal_to_noise(level) * (clean - estimate)

    plain = distillation_gradient(clean, predicted(levels), noise, levels)
    asynchronous = distillation_gradient(clean, predicted(levels), predicted(later), levels)
    torch.testing.assert_close(asynchronous, (1 - signal_to_noise(later) / signal_to_noise(levels)) * plain)
