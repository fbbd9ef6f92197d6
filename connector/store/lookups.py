"""Asks the store how much of a prompt it holds, within a budget: what has not answered by then is no hit.

In the place of vLLM's own client of its lookup thread, whose synchronous way waits without a limit (61 s with a master
that hangs, and every stream of the engine with it), and whose asynchronous way leaves the request out of the step that
begins, which may be seconds long.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from connector.store.breaker import Breaker
from connector.store.stats import Lookup, StoreStats

log = logging.getLogger(__name__)

Hit = TypeVar("Hit")


class Lookups(Generic[Hit]):
    """`ask` is vLLM's question, which may hang; `miss` the answer to a request that does without the store.

    One question at a time, as behind `ask` lies one socket: a question that hangs lets those behind it run out of
    their own budgets, until the breaker opens. They have not begun by then, and never will.

    Loads have a breaker of their own: the master, which is asked, may be well while an owner of the memory is not.
    Behind a load that hangs every other one would wait, so nothing is asked until it has ended.
    """

    def __init__(
        self,
        ask: Callable[[int, Sequence[bytes]], Hit],
        miss: Hit,
        budget_s: float,
        breaker: Breaker,
        loads: Breaker,
        a_load_hangs: Callable[[], bool],
        stats: StoreStats,
    ) -> None:
        self._ask = ask
        self._miss = miss
        self._budget_s = budget_s
        self._breaker = breaker
        self._loads = loads
        self._a_load_hangs = a_load_hangs
        self._stats = stats
        self._counted: set[str] = set()  # a request that waits for room is asked about in every step
        self._given_up: set[str] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-lookup")

    @property
    def store_fails(self) -> bool:
        return self._breaker.is_open or self._loads.is_open or self._a_load_hangs()

    def lookup(self, request_id: str, num_tokens: int, block_hashes: Sequence[bytes], non_block: bool = False) -> Hit:
        """Returns within the budget, whatever the store does. `non_block` is vLLM's, and has no effect."""
        found, hit = self._ask_within_budget(request_id, num_tokens, block_hashes)
        if request_id not in self._counted:
            self._counted.add(request_id)
            self._stats.looked_up(found)
        return hit

    def _ask_within_budget(self, request_id: str, num_tokens: int, block_hashes: Sequence[bytes]) -> tuple[Lookup, Hit]:
        if request_id in self._given_up or self._a_load_hangs() or not self._breaker.allows():
            return "left", self._miss
        answer = self._thread.submit(self._ask, num_tokens, list(block_hashes))
        try:
            hit = answer.result(self._budget_s)
        except Exception as error:  # noqa: BLE001  a time-out, or whatever the store's client raises: the request goes on
            answer.cancel()
            self._give_up(request_id, self._breaker, f"no answer to a lookup within {self._budget_s:g} s: {error!r}")
            return "late", self._miss
        self._breaker.succeeded()
        if hit == self._miss:
            return "miss", hit
        return ("hit", hit) if self._loads.allows() else ("left", self._miss)

    def load_failed(self, request_id: str) -> None:
        """Or took too long: this request asks no more, as it would wait again."""
        if request_id not in self._given_up:
            self._give_up(request_id, self._loads, "a load failed or took too long")

    def load_succeeded(self) -> None:
        self._loads.succeeded()

    def _give_up(self, request_id: str, breaker: Breaker, reason: str) -> None:
        self._given_up.add(request_id)
        was_open = breaker.is_open
        breaker.failed()
        if breaker.is_open and not was_open:
            log.warning("the KV store is left alone for a while")
        log.info("request %s does without the KV store: %s", request_id, reason)

    def has_given_up(self, request_id: str) -> bool:
        return request_id in self._given_up

    def discard(self, request_id: str) -> None:
        """The request has ended."""
        self._given_up.discard(request_id)
        self._counted.discard(request_id)

    def tell_breakers(self) -> None:
        """As they are now."""
        self._stats.breaker("lookups", is_open=self._breaker.is_open)
        self._stats.breaker("loads", is_open=self._loads.is_open)

    def reset(self) -> bool:
        """vLLM's way to empty the whole store, which is other instances' as well. Returns: False, it was not done."""
        return False

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
