"""What a round trip says about another process's clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.sending.clock import RoundTrip

SECONDS = st.floats(0, 10)


@given(ahead=st.floats(-1e5, 1e5), there=SECONDS, back=SECONDS, between=SECONDS)
def test_a_clock_is_known_to_half_of_the_ways(ahead: float, there: float, back: float, between: float) -> None:
    asked = 1_700_000_000.0
    heard = asked + there + ahead
    trip = RoundTrip(asked, heard, heard + between, asked + there + between + back)
    assert trip.uncertainty == pytest.approx((there + back) / 2, abs=1e-5)
    if trip.ahead:
        assert abs(trip.ahead - ahead) <= trip.uncertainty + 1e-5
    else:
        assert abs(ahead) <= 2 * trip.uncertainty + 1e-5


@given(there=SECONDS, back=SECONDS, between=SECONDS)
def test_one_clock_is_believed(there: float, back: float, between: float) -> None:
    """However unevenly the two ways take their time."""
    trip = RoundTrip(0.0, there, there + between, there + between + back)
    assert trip.ahead == pytest.approx(0.0, abs=1e-9)
