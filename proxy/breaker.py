"""A circuit breaker for each instance: one that keeps failing is left alone, then tried with one request at a time.

closed     takes requests; so many failures with no success between them open it
open       takes none until its cool-down has passed
half_open  takes one, the probe: its success closes the circuit, its failure opens it for twice as long as before

A success is a whole answer. But a probe's answer can take minutes, so its first token closes the circuit already, on
probation: until a success one failure is enough to open it again.

A leg counts only towards the state in which it began. Of a hundred legs that were under way when an instance died,
three open the circuit and the rest, which may fail minutes later, say nothing about the instance that is back by then.
Pure: every `now` is a time in seconds that never goes back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]

MAX_COOLDOWN_S = 60.0


@dataclass(frozen=True)
class BreakerLimits:
    """failures: in a row, to open; cooldown_s: the first one."""

    failures: int = 3
    cooldown_s: float = 5.0


class Breakers:
    """One circuit for each instance id; an id that was never used is closed."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._circuits: dict[str, _Circuit] = {}

    def blocked(self, now: float) -> set[str]:
        """The instances that must not be chosen: open, or with their probe under way."""
        return {name for name, circuit in self._circuits.items() if circuit.blocked(now)}

    def state(self, instance_id: str, now: float) -> State:
        circuit = self._circuits.get(instance_id)
        return circuit.state(now) if circuit else "closed"

    def retry_after(self, instance_ids: Iterable[str], now: float) -> float:
        """Seconds until the first of these takes a request; 0 when one does, or when its probe can end any moment."""
        return min((self._wait(name, now) for name in instance_ids), default=0.0)

    def begin(self, instance_id: str, now: float) -> "Leg":
        """A leg is sent to an instance that is not blocked; in a half-open circuit it is the probe."""
        circuit = self._circuits.get(instance_id)
        if circuit is None:
            circuit = self._circuits[instance_id] = _Circuit(self._limits)
        return circuit.begin(now)

    def forget(self, instance_ids: Iterable[str]) -> None:
        """These are gone; one that comes back under its old id starts anew."""
        for name in instance_ids:
            self._circuits.pop(name, None)

    def _wait(self, instance_id: str, now: float) -> float:
        circuit = self._circuits.get(instance_id)
        return max(0.0, circuit.open_until - now) if circuit else 0.0


class Leg:
    """One leg's vote. It ends in one of three ways, and only the first such call counts."""

    def __init__(self, circuit: "_Circuit", period: int) -> None:
        self._circuit = circuit
        self._period = period
        self._open = True

    def answered(self) -> None:
        """The first token is here; how the answer ends is still to come."""
        if self._open and self._period == self._circuit.period:
            self._circuit.answered()
            self._period = self._circuit.period

    def succeeded(self) -> None:
        """The answer is whole, be it a 4xx."""
        if self._settle():
            self._circuit.succeeded()

    def failed(self, now: float) -> None:
        """It could not be reached, answered 5xx, broke its answer off or let a deadline pass."""
        if self._settle():
            self._circuit.failed(now)

    def abandoned(self) -> None:
        """Cancelled before the answer was whole: this says nothing, and the next leg may be the probe."""
        if self._settle():
            self._circuit.abandoned()

    def _settle(self) -> bool:
        counts = self._open and self._period == self._circuit.period
        self._open = False
        return counts


class _Circuit:
    """`period` changes with every transition, and with the probe's start, so that only the probe's vote counts then."""

    def __init__(self, limits: BreakerLimits) -> None:
        self.period = 0
        self.open_until = 0.0
        self._limits = limits
        self._failures = 0
        self._cooldown_s = limits.cooldown_s
        self._closed = True
        self._probing = False

    def state(self, now: float) -> State:
        if self._closed:
            return "closed"
        return "half_open" if self._probing or now >= self.open_until else "open"

    def blocked(self, now: float) -> bool:
        return not self._closed and (self._probing or now < self.open_until)

    def begin(self, now: float) -> Leg:
        if self._closed:
            return Leg(self, self.period)
        if self.blocked(now):
            return Leg(self, -1)  # not asked for, and not counted
        self._probing = True
        self.period += 1
        return Leg(self, self.period)

    def answered(self) -> None:
        if not self._closed:
            self._closed = True
            self._probing = False
            self._failures = self._limits.failures - 1
            self.period += 1

    def succeeded(self) -> None:
        self.answered()
        self._failures = 0
        self._cooldown_s = self._limits.cooldown_s

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._closed and self._failures < self._limits.failures:
            return
        self.open_until = now + self._cooldown_s
        self._cooldown_s = min(2 * self._cooldown_s, max(MAX_COOLDOWN_S, self._limits.cooldown_s))
        self._closed = False
        self._probing = False
        self.period += 1

    def abandoned(self) -> None:
        if self._probing:
            self._probing = False
            self.period += 1
