import math

import pytest

from loadtest import stages
from loadtest.stages import Stage, Stages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60:1", [(60, 1, 1)]),
        ("60:1, 60:1-4,0.5:4", [(60, 1, 1), (60, 1, 4), (0.5, 4, 4)]),
        ("10:0-2,10:2-0", [(10, 0, 2), (10, 2, 0)]),
        ("10:0,10:5", [(10, 0, 0), (10, 5, 5)]),
    ],
)
def test_parse(text: str, expected: list[tuple[float, float, float]]) -> None:
    assert stages.parse(text) == Stages(tuple(Stage(*stage) for stage in expected))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is none of the stages"),
        ("60", "'60' is none of the stages"),
        ("60:1,", "'' is none of the stages"),
        ("60:1-", "'60:1-' is none of the stages"),
        ("60:-1", "'60:-1' is none of the stages"),
        ("60:1:2", "'60:1:2' is none of the stages"),
        ("60:1.2.3", "'60:1.2.3' holds no number"),
        ("0:1", "'0:1' lasts no time"),
        ("60:0,10:0", "never rises above 0"),
    ],
)
def test_bad_stages(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stages.parse(text)


RAMPS = stages.parse("10:2,10:2-6,10:6-0,10:0,10:3")


@pytest.mark.parametrize(
    ("at", "rate"),
    [(0, 2), (9.9, 2), (10, 2), (15, 4), (20, 6), (25, 3), (30, 0), (39, 0), (40, 3), (50, 3), (99, 3)],
)
def test_rate(at: float, rate: float) -> None:
    assert RAMPS.value(at) == pytest.approx(rate)


def test_highest() -> None:
    assert RAMPS.highest == 6


def test_time_of_inverts_the_area_under_the_rate() -> None:
    step = 0.001
    area = 0.0
    for number in range(50_000):
        at = (number + 0.5) * step
        area += RAMPS.value(at) * step
        if number % 997 == 0 and RAMPS.value(at) > 0.01:
            found = RAMPS.time_of(area - RAMPS.value(at) * step / 2)
            assert found == pytest.approx(at, abs=2 * step)


def test_area_that_is_never_reached() -> None:
    assert RAMPS.time_of(119.9) == pytest.approx(49.97, abs=0.01)
    assert RAMPS.time_of(120) is None


def test_constant_has_no_end() -> None:
    assert stages.constant(4).seconds == math.inf
    assert stages.constant(4).time_of(10) == 2.5
    assert stages.constant(4).value(1e9) == 4
