"""The transfers that a producer's rank knows: those under way, and of how many that are over it still knows the end.

Not locked by itself: the producer calls everything here with its own lock held.
"""

from collections import OrderedDict
from dataclasses import dataclass

from connector.cache.layout import KVLayout
from connector.control.awake_time import AwakeTime
from connector.transfer.held import Held
from connector.transfer.prompt import Prompt

REMEMBERED_ENDS = 4096  # ended transfers whose late or repeated registrations are answered at once


@dataclass(frozen=True)
class Ended:
    """What is remembered of a transfer: why it serves no more, and whether bytes of it may still arrive."""

    cause: str
    unended: bool


class Transfers:
    """By their ids. `patience`: seconds for which one side's part waits for the other's."""

    def __init__(self, layout: KVLayout, time: AwakeTime, patience: float) -> None:
        self._layout = layout
        self._time = time
        self._patience = patience
        self._under_way: dict[str, Held] = {}
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    def all(self) -> list[Held]:
        """Those under way."""
        return list(self._under_way.values())

    def get(self, transfer_id: str) -> Held | None:
        """Where it is under way."""
        return self._under_way.get(transfer_id)

    def open(self, transfer_id: str) -> Held | None:
        """The transfer, made at its first mention from either side; None once it has ended."""
        if transfer_id in self._ended:
            return None
        held = self._under_way.get(transfer_id)
        if held is None:
            held = Held(transfer_id, Prompt(self._layout), deadline=self._time.now() + self._patience)
            self._under_way[transfer_id] = held
        return held

    def owned(self, transfer_id: str, request_id: str) -> Held | None:
        """The transfer that this request fills. None where its end was decided before the request came, and where
        another request came first (with n > 1 vLLM makes several requests with the same parameters)."""
        held = self.open(transfer_id)
        return held if held is not None and held.request_id in (None, request_id) else None

    def ended(self, transfer_id: str) -> str:
        """Why it serves no more; empty where no end is known."""
        ended = self._ended.get(transfer_id)
        return ended.cause if ended is not None else ""

    def unended(self, transfer_id: str) -> bool:
        """Whether bytes of the transfer, which may be over, may still arrive: whoever asks may have missed the word."""
        one = self._under_way.get(transfer_id) or self._ended.get(transfer_id)
        return one is not None and one.unended

    def forget(self, held: Held) -> None:
        """It is over."""
        del self._under_way[held.transfer_id]
        cause = held.cause or "already delivered: a transfer id serves once"
        self._ended[held.transfer_id] = Ended(cause, held.unended)
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)
