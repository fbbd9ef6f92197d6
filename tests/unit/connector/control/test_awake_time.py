"""Time passes with the host's clock, but for standstills."""

from unittest.mock import patch

from connector.control.awake_time import LONGEST_PAUSE_S, AwakeTime
from tests.unit.connector.properties.simulated_pair import Clock


def test_a_standstill_is_not_time_that_has_passed() -> None:
    clock = Clock()
    with patch("connector.control.awake_time.time", clock):
        time = AwakeTime()
        for _ in range(100):
            clock.now += 0.1
            time.tick()
        assert round(time.now(), 6) == 10.0
        clock.now += 0.5
        assert round(time.now(), 6) == 10.5, "between two ticks too"
        clock.now += 3600
        assert round(time.now(), 6) == 10 + LONGEST_PAUSE_S, "before the first tick after it as well"
        time.tick()
        assert round(time.now(), 6) == 10 + LONGEST_PAUSE_S
        clock.now += 1
        assert round(time.now(), 6) == 11 + LONGEST_PAUSE_S
