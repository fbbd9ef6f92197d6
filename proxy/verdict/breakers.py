"""The circuits of all instances, and the vote of each leg on its instance."""

from collections.abc import Callable, Iterable, Set
from typing import Any

from proxy.errors import (
    AnswerBroken,
    AnswerStalled,
    AnswerUnfinished,
    DeadlinePassed,
    InstanceBusy,
    InstanceError,
    InstanceUnreachable,
)
from proxy.verdict.circuit import BreakerLimits, Circuit, Signs, State


class Breakers:
    """One circuit for each instance id; an id that was never used is closed.

    doubted: is told of every circuit that may have a question to its instance.
    """

    def __init__(self, limits: BreakerLimits, doubted: Callable[[Circuit], None]) -> None:
        self._limits = limits
        self._doubted = doubted
        self._circuits: dict[str, Circuit] = {}
        self._not_closed: set[str] = set()

    def blocked(self) -> Set[str]:
        """The instances that must not be chosen."""
        return self._not_closed

    def state(self, instance_id: str) -> State:
        circuit = self._circuits.get(instance_id)
        return circuit.state() if circuit else "closed"

    def in_doubt(self, instance_id: str) -> bool:
        circuit = self._circuits.get(instance_id)
        return circuit is not None and circuit.in_doubt

    def retry_after(self, instance_ids: Iterable[str], now: float) -> float:
        """Seconds until the first of these is asked how it is; 0 when that can end any moment."""
        return min((self._wait(name, now) for name in instance_ids), default=0.0)

    def begin(self, instance_id: str, now: float) -> "Leg":
        """A leg is sent to an instance that is not blocked."""
        circuit = self._circuits.get(instance_id)
        if circuit is None:
            circuit = self._circuits[instance_id] = Circuit(instance_id, self._limits, self._not_closed)
        return Leg(circuit, now, self._doubted)

    def forget(self, instance_ids: Iterable[str]) -> None:
        """These are gone; one that comes back under its old id starts anew."""
        for name in instance_ids:
            if (circuit := self._circuits.pop(name, None)) is not None:
                circuit.forget()

    def described(self, instance_id: str, now: float) -> dict[str, Any]:
        """For /instances."""
        circuit = self._circuits.get(instance_id)
        found = circuit.last_finding if circuit else None
        return {
            "circuit": self.state(instance_id),
            "in_doubt": self.in_doubt(instance_id),
            "failures": circuit.failures if circuit else 0,
            "last_check": {"result": found[0], "age_s": round(now - found[1], 1)} if found else None,
        }

    def _wait(self, instance_id: str, now: float) -> float:
        circuit = self._circuits.get(instance_id)
        return max(0.0, circuit.open_until - now) if circuit else 0.0


class Leg:
    """One leg's vote. Only the first of `succeeded`, `failed` and `neutral` counts, and only while its circuit has not
    opened or closed since the leg began."""

    __slots__ = ("_began", "_circuit", "_doubted", "_open", "_period", "signs")

    def __init__(self, circuit: Circuit, now: float, doubted: Callable[[Circuit], None]) -> None:
        self.signs: Signs = circuit.signs
        self._circuit = circuit
        self._began = now
        self._doubted = doubted
        self._period = circuit.period
        self._open = True

    def answered(self, now: float) -> None:
        """The first token is here; how the answer ends is still to come."""
        self.signs.at = now

    def succeeded(self, now: float) -> None:
        """The answer is whole, and the engine's."""
        if self._settle():
            self._circuit.succeeded(now)

    def failed(self, error: BaseException, now: float, silent_s: float | None = None) -> None:
        """Args: silent_s: of an error that is silence, for how long; by default since the leg began."""
        if not self._settle():
            return
        match error:
            case InstanceUnreachable():
                self._circuit.unreachable(now)
            case InstanceBusy():
                self._circuit.busy()
            case InstanceError() | AnswerUnfinished():
                self._circuit.doubtful()
            case AnswerBroken():
                self._circuit.broken()
            case AnswerStalled() | DeadlinePassed():
                # Half of it: streams that end together had their last tokens a moment after one another.
                if now - self.signs.at < (now - self._began if silent_s is None else silent_s) / 2:
                    self._circuit.doubtful()
                else:
                    self._circuit.broken()
            case _:
                return  # the sender's own doing, or the proxy's
        self._doubted(self._circuit)

    def neutral(self) -> None:
        """However it ended, it says nothing."""
        self._open = False

    def _settle(self) -> bool:
        counts = self._open and self._circuit.closed and self._period == self._circuit.period
        self._open = False
        return counts
