"""Stand-ins for what surrounds the connector's pure parts: memory with a transfer engine, a GPU's fences, a channel."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from connector.cache.heads import Source
from connector.cache.layout import KVLayout
from connector.cache.pieces import Piece
from connector.control.messages import GroupBlocks, Message, Outcome, Register
from connector.mooncake.engine import TransferError, UnendedWriteError
from connector.mooncake.polled_write import always
from tests.unit.connector.fake_layouts import MEMORY_BYTES, TARGET, places

LIMIT_S = 30.0  # for what must happen at all; no verdict depends on how fast


@dataclass
class Gate:
    """Holds the writes to one segment: `entered` is set when the first has begun, `opened` lets them go on."""

    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


# Every module that tells the time of a transfer, for a test that simulates it.
CLOCKS = (
    "connector.control.awake_time.time",
    "connector.transfer.producer.time",
    "connector.transfer.held.time",
    "connector.transfer.senders.time",
)


class FakeEngine:
    """Copies between byte arrays. The copy of a held write is made when its gate opens, as a slow network would."""

    def __init__(self) -> None:
        self.segment = "here"
        self.source = bytearray(MEMORY_BYTES)
        self.targets: dict[str, bytearray] = {}
        self.writes: list[tuple[str, list[Piece]]] = []
        self.returned = 0
        self.gates: dict[str, Gate] = {}
        self.broken: set[str] = set()
        self.broken_once: set[str] = set()
        self.without_end: set[str] = set()
        self.unended: list[tuple[str, list[Piece]]] = []  # writes of which bytes may come late
        self.faulty: set[str] = set()
        self.wanted: list[bool] = []  # by write, when it returned
        self._lock = threading.Lock()

    def hold(self, segment: str) -> Gate:
        self.gates[segment] = Gate()
        return self.gates[segment]

    def target(self, segment: str) -> bytearray:
        return self.targets.setdefault(segment, bytearray(MEMORY_BYTES))

    def register(self, address: int, length: int) -> None:
        raise AssertionError("the connector's class registers memory, not the producer")

    def close(self) -> None:
        raise AssertionError("a producer keeps its engines")

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        with self._lock:
            self.writes.append((segment, list(pieces)))
        gate = self.gates.get(segment)
        if gate is not None:
            gate.entered.set()
            assert gate.opened.wait(LIMIT_S), "the test never opened the gate"
        with self._lock:
            self.returned += 1
            self.wanted.append(wanted())
            if segment in self.broken | self.broken_once:
                self.broken_once.discard(segment)
                raise TransferError(f"writing {len(pieces)} pieces to {segment} failed: code -1")
            if segment in self.faulty:
                raise RuntimeError("CUDA error: out of memory")
            if segment in self.without_end:
                self.unended.append((segment, list(pieces)))
                raise UnendedWriteError(f"writing {len(pieces)} pieces to {segment}: {len(pieces)} did not end")
            self.land(segment, pieces)

    def land(self, segment: str, pieces: Sequence[Piece]) -> None:
        target = self.target(segment)
        for piece in pieces:
            target[piece.target : piece.target + piece.length] = self.source[piece.source : piece.source + piece.length]


def never_opened(transport: str) -> FakeEngine:
    raise AssertionError(f"a new engine for {transport}: a producer keeps its engines")


class Access:
    """Stands for `Revocation`: `revoke` carries out what was asked for."""

    def __init__(self) -> None:
        self.segments = {"rdma": "d-rdma-0", "tcp": "d-tcp-0"}
        self.asked: set[str] = set()

    def over(self, segments: Mapping[str, str], transports: Collection[str]) -> bool:
        due = {name for name in transports if segments[name] == self.segments[name]}
        self.asked |= due
        return not due

    def revoke(self) -> None:
        self.segments |= {name: f"{self.segments[name]} and a new one" for name in self.asked}
        self.asked = set()


def registrations(
    transfer_id: str,
    groups: list[GroupBlocks],
    tokens: int,
    plan: list[list[Source]],
    segments: dict[str, str],
    layout: KVLayout = TARGET,
) -> list[dict[int, Register]]:
    """What each rank of a consumer at tcp://d:1 has asked for, by the producer's rank."""
    return [
        {
            source.rank: Register(
                transfer_id=transfer_id,
                engine_id="p",
                fingerprint=layout.facts,
                reply_to="tcp://d:1",
                rank=rank,
                shares=source.shares,
                segments=segments,
                host_identity="",
                tokens=tokens,
                groups=groups,
                layers=places(layout, source.heads),
            )
            for source in own
        }
        for rank, own in enumerate(plan)
    ]


class ImmediateFences:
    """As on a CPU."""

    def after(self, callback: Callable[[], None]) -> None:
        callback()

    def drain(self) -> None:
        pass

    def caught_up(self) -> bool:
        return True


class LateFences:
    """As on a GPU that has not come further yet: callbacks run when the test says so, or when somebody drains."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def after(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def drain(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def caught_up(self) -> bool:
        return False


class Outbox:
    """A control channel's end: what was sent, in order; `take_next` waits for the next message."""

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.watched: list[str] = []
        self.sent: list[tuple[str, Message]] = []
        self._taken = 0
        self._news = threading.Condition()

    def send(self, address: str, message: Message) -> None:
        with self._news:
            self.sent.append((address, message))
            self._news.notify_all()

    def watch(self, address: str) -> None:
        self.watched.append(address)

    def take_next(self) -> Message:
        with self._news:
            assert self._news.wait_for(lambda: len(self.sent) > self._taken, LIMIT_S), "nothing was sent"
            self._taken += 1
            return self.sent[self._taken - 1][1]

    def untaken(self) -> list[Message]:
        with self._news:
            return [message for _, message in self.sent[self._taken :]]

    def answers_to(self, transfer_id: str) -> list[Outcome]:
        with self._news:
            return [m for _, m in self.sent if isinstance(m, Outcome) and m.transfer_id == transfer_id]


def until(condition: Callable[[], bool]) -> None:
    """Waits for what no event announces. Raises: AssertionError: after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s"
        time.sleep(0.002)


class ArrayMemory:
    """Reads where the fake engine reads."""

    def __init__(self, content: bytearray) -> None:
        self._content = content

    def read(self, address: int, length: int) -> memoryview:
        return memoryview(bytes(self._content[address : address + length]))
