"""What counts as flat memory."""

import random

import pytest

from benchmarks.soak.trend import ALLOWED_LEAST, FEWEST_POINTS, MOST_POINTS, Point, trend

MIB = 1 << 20


def series(minutes: float, mib_per_hour: float, *, start_mib: float = 100, noise_mib: float = 0.0) -> list[Point]:
    """A sample every 5 s."""
    noise = random.Random(3)
    times = [5.0 * number for number in range(int(minutes * 12))]
    return [(at, (start_mib + mib_per_hour * at / 3600 + noise.uniform(-1, 1) * noise_mib) * MIB) for at in times]


@pytest.mark.parametrize(
    ("minutes", "mib_per_hour", "noise_mib", "flat"),
    [
        (8, 0, 0, True),
        (8, 0, 5, True),
        (8, 20, 0, True),  # a sure trend of less than the allowance
        (8, 60, 5, False),
        (8, -300, 0, True),
        (240, 20, 5, False),  # what 8 minutes cannot tell, 4 hours do
        (240, 0.5, 5, True),
    ],
)
def test_flat_unless_it_grows_beyond_doubt_and_beyond_the_allowance(
    minutes: float, mib_per_hour: float, noise_mib: float, flat: bool
) -> None:
    found = trend(series(minutes, mib_per_hour, noise_mib=noise_mib))
    assert found is not None
    assert found.is_flat == flat


def test_the_slope_is_the_one_of_the_series_whatever_spikes_it_has() -> None:
    points = series(30, 60)
    for number in range(0, len(points), 5):
        points[number] = (points[number][0], points[number][1] + 500 * MIB)
    found = trend(points)
    assert found is not None
    assert found.per_hour == pytest.approx(60 * MIB, rel=0.05)


def test_a_spike_at_the_end_is_no_trend() -> None:
    points = series(8, 0, noise_mib=1)
    points[-5:] = [(at, value + 300 * MIB) for at, value in points[-5:]]
    found = trend(points)
    assert found is not None
    assert found.is_flat


def test_a_large_service_may_grow_by_a_share_of_itself() -> None:
    small, large = (trend(series(30, 20, start_mib=mib)) for mib in (100, 2000))
    assert small is not None
    assert large is not None
    assert small.allowance == ALLOWED_LEAST
    assert not small.is_flat
    assert large.is_flat


def test_a_long_series_is_thinned_and_says_the_same() -> None:
    points = series(240, 30, noise_mib=2)
    assert len(points) > 5 * MOST_POINTS
    found = trend(points)
    assert found is not None
    assert found.per_hour == pytest.approx(30 * MIB, rel=0.05)
    assert found.seconds == pytest.approx(4 * 3600, rel=0.01)


def test_too_few_samples_tell_nothing() -> None:
    assert trend(series(8, 0)[: FEWEST_POINTS - 1]) is None
