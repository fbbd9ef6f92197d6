"""The first tokens that a consumer's scheduler expects of producers, from a registration to the first of the answer.

A token comes in a message of its own as soon as it is sampled, and once more with the word that the cache has arrived:
the message may be lost, and on another socket it may be the later one.
"""

import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from connector.control.messages import FirstToken
from connector.first_token import causes
from connector.telling.stats import TransferStats

if TYPE_CHECKING:
    from vllm.v1.request import Request

Way = Literal["message", "with the cache"]

log = logging.getLogger(__name__)


@dataclass
class Expected:
    """`engine_id`, `prompt`: as in the registration. `tokens`: of the prompt, that shall come. `load_over`: the word on
    the cache has come. way: on which `token` came."""

    request_id: str
    transfer_id: str
    engine_id: str
    prompt: str
    tokens: int
    token: int | None = None
    way: Way | None = None
    load_over: bool = False
    load_failed: bool = False


class FirstTokens:
    """`address`: where producers send them. `publish` gets who computed each, see `telling/transfer_facts.py`.

    All but `on_message` is for the scheduler's thread.
    """

    def __init__(self, address: str, stats: TransferStats, publish: Callable[[dict[str, Any]], None]) -> None:
        self._address = address
        self._stats = stats
        self._publish = publish
        self._why_not: Callable[[Request], str] | None = None
        self._came: queue.SimpleQueue[FirstToken] = queue.SimpleQueue()
        self._expected: dict[str, Expected] = {}  # by transfer id

    def take_with(self, why_not: Callable[["Request"], str]) -> None:
        """A scheduler that takes them is there: until then none is asked for. `why_not`: see `causes.Engine`."""
        self._why_not = why_not

    def expect(self, request: "Request", expected: Expected, left_out: bool) -> str:
        """A request is about to be registered. Returns: where its token shall be sent, empty where it is not wanted."""
        if self._why_not is None:
            return ""
        cause = self._why_not(request) or (causes.WINDOWS_OR_STATE if left_out else "")
        if cause:
            self._count(expected, cause)
            return ""
        self._expected.setdefault(expected.transfer_id, expected)
        return self._address

    def on_message(self, message: FirstToken) -> None:
        """From the control channel's thread."""
        self._came.put(message)

    def load_over(self, transfer_id: str, request_id: str, token: int | None, failed: bool) -> None:
        expected = self._expected.get(transfer_id)
        if expected is None or expected.request_id != request_id:
            return
        expected.load_over, expected.load_failed = True, failed
        if expected.token is None and token is not None:
            expected.token, expected.way = token, "with the cache"

    def here(self) -> list[Expected]:
        """Those whose token is here, or whose load is over without one; named again until they are `settled`."""
        while not self._came.empty():
            self._receive(self._came.get())
        return [one for one in self._expected.values() if one.token is not None or one.load_over]

    def _receive(self, message: FirstToken) -> None:
        expected = self._expected.get(message.transfer_id)
        if expected is None:
            log.info("transfer %s: its first token is not awaited (any more)", message.transfer_id)
        elif (message.engine_id, message.prompt) != (expected.engine_id, expected.prompt):
            log.warning(
                "transfer %s: a first token of %s is not its producer's", message.transfer_id, message.engine_id
            )
        elif expected.token is None:
            expected.token, expected.way = message.token, "message"

    def settled(self, expected: Expected, cause: str = "") -> None:
        """It has become the answer's first token; or for `cause` the consumer computes that."""
        del self._expected[expected.transfer_id]
        self._count(expected, cause)

    def forget(self, transfer_id: str, request_id: str) -> None:
        """The request has ended: nobody gets its first token any more."""
        expected = self._expected.get(transfer_id)
        if expected is not None and expected.request_id == request_id:
            del self._expected[transfer_id]

    def _count(self, expected: Expected, cause: str) -> None:
        self._stats.first_token(cause)
        producers = {"first_token": "producer", "first_token_way": expected.way, "expected_tokens": expected.tokens}
        by = {"first_token": "consumer", "first_token_cause": cause} if cause else producers
        self._publish({"transfer_id": expected.transfer_id, **by})
