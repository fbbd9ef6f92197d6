"""A run's common clock: seconds since the schedule's zero, a wall-clock time that all its processes are told."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A question of this process and the other's answer, each moment in Unix seconds by the clock of who saw it.

    NTP's on-wire protocol (RFC 5905, section 8); between `heard` and `answered` any time may pass.
    """

    asked: float
    heard: float
    answered: float
    received: float

    @property
    def ahead(self) -> float:
        """How far the other's clock is ahead of this one, in seconds; 0 where the two may as well agree.

        The two ways may take differently long, so it is known to half of what both took. Below that the clocks
        themselves are to be believed: those of one machine are one clock.
        """
        ahead = ((self.heard - self.asked) + (self.answered - self.received)) / 2
        return ahead if abs(ahead) > self.uncertainty else 0.0

    @property
    def uncertainty(self) -> float:
        """In seconds, either way."""
        return max(0.0, (self.received - self.asked) - (self.answered - self.heard)) / 2


class RunClock:
    """The wall clock is read once, for the zero; every difference after that is the monotonic clock's, which no
    correction of the wall clock moves. Processes of one machine agree within microseconds, those of several as well
    as their wall clocks do (NTP, PTP), and at worst as well as a `RoundTrip` can tell."""

    def __init__(self, zero: float) -> None:
        """Args: zero: of `time.time()`."""
        self._zero = time.perf_counter() + (zero - time.time())

    def now(self) -> float:
        return self.at(time.perf_counter())

    def at(self, moment: float) -> float:
        """Args: moment: of `time.perf_counter()`."""
        return moment - self._zero
