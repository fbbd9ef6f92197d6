"""Circuits under watch: what is known of them, and of what they have doubts."""

from dataclasses import dataclass, field

from proxy.errors import (
    AnswerBroken,
    AnswerStalled,
    AnswerUnfinished,
    DeadlinePassed,
    InstanceBusy,
    InstanceError,
    InstanceUnreachable,
    RejectedByInstance,
)
from proxy.verdict.breakers import Breakers
from proxy.verdict.circuit import BreakerLimits, Circuit, Finding, Question

LIMITS = BreakerLimits(failures=3, cooldown_s=5.0)
UNREACHABLE = InstanceUnreachable("decode", "d0", "cannot be reached")
BROKEN = AnswerBroken("decode", "d0", "broke the connection off")
UNFINISHED = AnswerUnfinished("decode", "d0", "ended its stream early")
STALLED = AnswerStalled("decode", "d0", "has sent no token for 60 s")
ERROR = InstanceError("decode", "d0", "answered 500: x", 500, b"{}")
BUSY = InstanceBusy("decode", "d0", "answered 503: busy", 503, b"{}", None)
REFUSED = RejectedByInstance(400, b"{}", None)
LATE = DeadlinePassed("The first token", 300)


@dataclass
class Watched:
    """The circuits, and those that may have a question."""

    breakers: Breakers = field(init=False)
    doubted: dict[str, Circuit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.breakers = Breakers(LIMITS, lambda circuit: self.doubted.update({circuit.instance_id: circuit}))

    def fails(self, error: BaseException, now: float = 0, times: int = 1, name: str = "d0") -> None:
        for _ in range(times):
            self.breakers.begin(name, now).failed(error, now)

    def works(self, now: float = 0, name: str = "d0") -> None:
        self.breakers.begin(name, now).succeeded(now)

    def due(self, name: str = "d0") -> float | None:
        return self.doubted[name].due() if name in self.doubted else None

    def asks(self, finding: Finding, now: float = 0, name: str = "d0") -> Question:
        """The due question and its answer."""
        due = self.due(name)
        assert due is not None
        assert due <= now
        question = self.doubted[name].ask(now)
        self.doubted[name].found(finding, now)
        return question

    def state(self, name: str = "d0") -> str:
        assert (name in self.breakers.blocked()) == (self.breakers.state(name) != "closed")
        return self.breakers.state(name)
