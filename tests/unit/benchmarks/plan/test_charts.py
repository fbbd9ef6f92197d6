"""What of an answer its charts can show."""

import pytest

from benchmarks.plan.charts import MOST_GAIN, _on_the_axis


@pytest.mark.parametrize(
    ("gain", "drawn"),
    [(None, None), (0.0, 1 / MOST_GAIN), (0.5, 0.5), (1.7, 1.7), (float("inf"), MOST_GAIN)],
)
def test_a_gain_of_nothing_or_without_end_is_at_the_edge(gain: float | None, drawn: float | None) -> None:
    assert _on_the_axis(gain) == drawn
