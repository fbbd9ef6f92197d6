"""Posts pieces one by one, waits for them without spinning, and accounts for every one of them.

Mooncake's own call for a batch keeps a core busy until the end, and returns at the first failed piece while others may
still be written to the peer's memory.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from connector.cache.pieces import Piece

# Larger pieces are cut: TCP's connections share them then (host memory, 8 threads: 4 -> 17 GB/s), and progress is seen.
LONGEST_PIECE = 1 << 20
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 50e-6, 1e-3


def always() -> bool:
    return True


class Slots:
    """How many pieces may be in flight to one peer, shared by all writes to it.

    A write takes one more only while more are free than it holds: so the first leaves half of them to those that come
    later, and none waits for another's end.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()

    def take(self, held: int) -> bool:
        with self._lock:
            taken = held < self._free
            self._free -= taken
        return taken

    def give_back(self) -> None:
        with self._lock:
            self._free += 1


@dataclass
class Unwritten:
    """Pieces that did not arrive: failed, not posted because one had failed or nobody wanted them any more, or posted
    without an end in time."""

    failed: int = 0
    not_posted: int = 0
    in_flight: int = 0  # these may still reach the peer

    def __bool__(self) -> bool:
        return bool(self.failed or self.not_posted or self.in_flight)

    def __str__(self) -> str:
        return f"{self.failed} failed, {self.in_flight} did not end, {self.not_posted} not posted"


def write(
    post: Callable[[Piece], int],
    check: Callable[[int], int],
    pieces: Sequence[Piece],
    slots: Slots,
    timeout: float,
    wanted: Callable[[], bool] = always,
) -> Unwritten:
    """Returns when every posted piece has arrived or failed, or when none has ended for `timeout` seconds.

    Args: post: takes one piece and returns its number, 0 when it is refused; check: of a number, 0 while its piece is
        in flight, 1 when that has arrived, negative when it has failed; wanted: asked right before each piece: once it
        says no, nothing more is posted.
    """
    unwritten = Unwritten()
    todo = deque(_cut(pieces))
    in_flight: deque[int] = deque()
    pause, last_progress = SHORTEST_PAUSE_S, time.monotonic()
    posting = True

    def may_post() -> bool:
        nonlocal posting
        posting = posting and not unwritten.failed and wanted()
        return posting

    try:
        while in_flight or (todo and may_post()):
            while todo and may_post() and slots.take(len(in_flight)):
                number = post(todo.popleft())
                if number:
                    in_flight.append(number)
                else:
                    slots.give_back()
                    unwritten.failed += 1
            # They end about in the order of posting: the oldest one tells enough.
            ended = False
            while in_flight and (status := check(in_flight[0])):
                in_flight.popleft()
                slots.give_back()
                unwritten.failed += status < 0
                ended = True
            if ended or not in_flight:
                last_progress = time.monotonic()
            if ended:
                pause = SHORTEST_PAUSE_S
            elif time.monotonic() - last_progress > timeout:
                break
            else:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
    finally:
        for number in in_flight:
            slots.give_back()
            status = check(number)
            unwritten.failed += status < 0
            unwritten.in_flight += status == 0
    unwritten.not_posted = len(todo)
    return unwritten


def _cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    for source, target, length in pieces:
        for offset in range(0, length, LONGEST_PIECE):
            yield Piece(source + offset, target + offset, min(LONGEST_PIECE, length - offset))
