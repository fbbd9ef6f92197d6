"""The consumer's rank: waits for the producer's word on each transfer and tells vLLM which blocks are valid.

The registration itself is sent by the scheduler's side, which is earlier; an answer may therefore be here before the
worker has heard of the request.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from connector.messages import Cancel, Cancelled, Done, Failed, Message, Outcome
from connector.stats import TransferStats
from connector.steps import ConsumerStep, Load

log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    load: Load
    deadline: float
    cancelled: bool = False  # the producer was told to stop
    aborted: bool = False  # nobody waits for the blocks' contents any more


class Consumer:
    """Times are in seconds: `timeout` bounds the wait for a transfer, `cancel_timeout` the wait for the producer's word
    that it has stopped writing, after which the blocks are taken back without it."""

    def __init__(
        self,
        rank: int,
        block_tokens: int,
        address: str,
        send: Callable[[str, Message], None],
        timeout: float,
        cancel_timeout: float,
        stats: TransferStats,
    ) -> None:
        self._rank = rank
        self._block_tokens = block_tokens
        self._address = address
        self._send = send
        self._timeout = timeout
        self._cancel_timeout = cancel_timeout
        self._stats = stats
        self._waiting: dict[str, _Waiting] = {}
        self._early: dict[str, tuple[Outcome, float]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._invalid_blocks: set[int] = set()
        self._done: dict[str, Done] = {}
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)

    # --- vLLM's thread ---

    def begin_step(self, step: ConsumerStep) -> None:
        now = time.monotonic()
        with self._lock:
            for load in step.loads:
                self._waiting[load.transfer_id] = _Waiting(load, now + self._timeout)
                early = self._early.pop(load.transfer_id, None)
                if early is not None:
                    self._outcomes[load.transfer_id] = early[0]
            for transfer_id in step.aborted:
                waiting = self._waiting.get(transfer_id)
                if waiting is not None:
                    waiting.aborted = True
                    if not waiting.cancelled:
                        self._cancel(waiting, now)

    def take_finished(self, wait: float) -> set[str]:
        """Request ids whose transfer is over, well or not; waits up to `wait` seconds for one while any is awaited."""
        with self._lock:
            if wait and self._waiting and not self._outcomes:
                self._news.wait(wait)
            finished = set()
            for transfer_id, outcome in self._outcomes.items():
                waiting = self._waiting.pop(transfer_id)
                finished.add(waiting.load.request_id)
                self._account(waiting, outcome)
            self._outcomes = {}
            return finished

    def take_invalid_blocks(self) -> set[int]:
        """Blocks of finished transfers that did not arrive."""
        with self._lock:
            invalid, self._invalid_blocks = self._invalid_blocks, set()
            return invalid

    def take_done(self) -> dict[str, Done]:
        """Facts of the transfers that arrived whole, by request id."""
        with self._lock:
            done, self._done = self._done, {}
            return done

    def _account(self, waiting: _Waiting, outcome: Outcome) -> None:
        load = waiting.load
        if isinstance(outcome, Done):
            self._done[load.request_id] = outcome
            self._stats.received(outcome.bytes, len(load.block_ids) * self._block_tokens)
            return
        if waiting.aborted:
            return
        if isinstance(outcome, Cancelled):  # nobody here aborted it, so it was cancelled for its time-out
            outcome = Failed(load.transfer_id, 0, "timed out: the producer stopped when it was told to")
        self._invalid_blocks.update(load.block_ids[outcome.delivered_blocks :])
        self._stats.failed(outcome.cause)
        log.warning(
            "transfer %s from %s failed after %d of %d blocks: %s",
            load.transfer_id,
            load.producers[self._rank],
            outcome.delivered_blocks,
            len(load.block_ids),
            outcome.cause,
        )

    # --- the control channel's thread ---

    def on_message(self, message: Message) -> None:
        if not isinstance(message, Done | Failed | Cancelled):
            log.warning("consumer: ignored a %s, which only a producer may receive", type(message).__name__)
            return
        with self._lock:
            if message.transfer_id in self._waiting:
                self._outcomes.setdefault(message.transfer_id, message)
                self._news.notify_all()
            else:
                self._early[message.transfer_id] = (message, time.monotonic() + self._timeout)

    def on_tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            for transfer_id, waiting in self._waiting.items():
                if waiting.deadline > now or transfer_id in self._outcomes:
                    continue
                if not waiting.cancelled:
                    log.warning("transfer %s: no word for %g s, cancelling it", transfer_id, self._timeout)
                    self._cancel(waiting, now)
                else:
                    self._outcomes[transfer_id] = Failed(transfer_id, 0, "timed out: the producer did not answer")
                    self._news.notify_all()
            self._early = {key: value for key, value in self._early.items() if value[1] > now}

    def _cancel(self, waiting: _Waiting, now: float) -> None:
        waiting.cancelled = True
        waiting.deadline = now + self._cancel_timeout
        transfer_id = waiting.load.transfer_id
        self._send(waiting.load.producers[self._rank], Cancel(transfer_id, self._address))
