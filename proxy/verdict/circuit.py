"""What is known of one instance's health: the evidence so far, what has to be asked, and whether it is in use.

closed     takes requests; so many failures in a row open it
open       takes none until its cool-down has passed
half_open  takes none while the proxy's own question is under way: its answer closes the circuit, and when none comes it
           stays open, for twice as long as before

A request's sender decides much of how it ends, so what one request shows is told apart by whether it could be the
sender's doing:

- Not reachable: nobody but the instance does that. It is a failure.
- A connection that was broken off, or silence of the whole instance until a deadline: a failure too. But there are
  bodies for which a healthy server ends its stream like that, so these open the circuit only when the instance has not
  answered the proxy's own question since.
- An error as the answer (5xx), or a deadline that passes while others get their tokens: a doubt. It counts nothing; the
  question, or somebody else's good answer, settles it.
- "Busy": neither. But a dead engine may say that as well, so its health is asked for.
- A refusal (4xx), a client that left: nothing.

The question that nobody else can influence decides: its good answer takes back all failures, its bad one is a failure.
Pure: every `now` is a time in seconds that never goes back.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]
# health: GET /health alone; token: and then one token of a prompt of the proxy's own
Question = Literal["health", "token"]
# well: all that was asked for; alive: it answers, but gives no token now (busy); silent: no answer in time; ill: gone,
# its health is, or it fails at the simplest of requests
Finding = Literal["well", "alive", "silent", "ill"]

MAX_COOLDOWN_S = 60.0
# Between two questions to an instance in use, so that whoever can raise doubts cannot make work of them.
PAUSE_S = 1.0
AGAIN_S = 0.2  # after a bad answer: the next ones confirm it


@dataclass(frozen=True)
class BreakerLimits:
    """failures: in a row, to open; cooldown_s: the first one."""

    failures: int = 3
    cooldown_s: float = 5.0


class Signs:
    """When the instance's engine was last heard of: a token of any answer."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = float("-inf")


class Circuit:
    """`period` changes with every transition: what began before it says nothing after it.

    Of a hundred legs that were under way when an instance died, some open the circuit and the rest, which may fail
    minutes later, say nothing about the instance that is back by then.

    not_closed: of all circuits, the instance ids; each keeps its own there.
    """

    def __init__(self, instance_id: str, limits: BreakerLimits, not_closed: set[str] | None = None) -> None:
        self.instance_id = instance_id
        self.period = 0
        self.closed = True
        self.open_until = 0.0
        self.failures = 0
        self.signs = Signs()
        self.last_finding: tuple[Finding, float] | None = None
        self._limits = limits
        self._not_closed = set() if not_closed is None else not_closed
        self._cooldown_s = limits.cooldown_s
        self._question: Question | None = None
        self._asked: tuple[Question, float] | None = None  # under way, since when
        self._forgotten = False

    def state(self) -> State:
        if self.closed:
            return "closed"
        return "half_open" if self._asked else "open"

    @property
    def in_doubt(self) -> bool:
        """In use, with a question to it that has no good answer yet."""
        return self.closed and self._question is not None

    def succeeded(self, now: float) -> None:
        """A whole answer of a request."""
        self.signs.at = now
        if self.closed:
            self.failures = 0
            self._cooldown_s = self._limits.cooldown_s
            self._question = None

    def unreachable(self, now: float) -> None:
        self.failures += 1
        self._question = "token"
        if self.failures >= self._limits.failures:
            self._open(now)

    def broken(self) -> None:
        self.failures += 1
        self._question = "token"

    def doubtful(self) -> None:
        self._question = "token"

    def busy(self) -> None:
        self._question = self._question or "health"

    def due(self) -> float | None:
        """When the next question is to be put, maybe in the past; None when there is none, or one is under way."""
        if self._asked is not None or self._forgotten:
            return None
        if not self.closed:
            return self.open_until
        if self._question is None:
            return None
        if self.last_finding is None or self.failures >= self._limits.failures:
            return float("-inf")  # so many failures cost more than a question
        finding, found_at = self.last_finding
        return found_at + (AGAIN_S if finding == "ill" else PAUSE_S)

    def ask(self, now: float) -> Question:
        """The question that is due; `found` follows, whatever comes of it."""
        question = self._question or "token"
        self._asked = question, now
        return question

    def found(self, finding: Finding, now: float) -> None:
        if self._asked is None:
            raise RuntimeError(f"{self.instance_id} was not asked")
        question, asked_at = self._asked
        self._asked = None
        self.last_finding = finding, now
        if not self.closed:
            self._found_open(finding, asked_at, now)
        elif finding == "well":
            self._found_well(question)
        elif finding == "ill":
            self._question = "token"
            self.failures += 1
            if self.failures >= self._limits.failures:
                self._open(now)
        elif self.failures >= self._limits.failures:
            if self.signs.at > asked_at:
                self.failures = self._limits.failures - 1  # it works, for others: one more failure asks again
            else:
                self._open(now)

    def forget(self) -> None:
        """The instance is gone."""
        self._forgotten = True
        self._not_closed.discard(self.instance_id)

    def _found_well(self, question: Question) -> None:
        if question == "token":
            self.failures = 0
            self._question = None
        elif self._question == "health":  # else there was reason for more since
            self._question = None

    def _found_open(self, finding: Finding, asked_at: float, now: float) -> None:
        if finding in ("well", "alive"):
            self.closed = True
            self._not_closed.discard(self.instance_id)
            self.failures = self._limits.failures - 1
            self.period += 1
            self._question = None
        elif asked_at >= self.open_until:  # else it opened in the meantime, for the same reason
            self._open(now)

    def _open(self, now: float) -> None:
        self.open_until = now + self._cooldown_s
        self._cooldown_s = min(2 * self._cooldown_s, max(MAX_COOLDOWN_S, self._limits.cooldown_s))
        self.closed = False
        if not self._forgotten:
            self._not_closed.add(self.instance_id)
        self._question = "token"
        self.period += 1
