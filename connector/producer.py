"""The producer's rank: pushes blocks to consumers while the prefill computes, and always tells them how it ended.

vLLM's thread reports chunks and layers, the control channel reports registrations, sender threads write. They share
the transfers under one lock, which nobody holds while writing or waiting for the GPU.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from connector.engine import TransferEngine, TransferError
from connector.held import Held
from connector.layout import KVLayout
from connector.messages import Cancel, Cancelled, Done, Failed, Message, Register
from connector.stats import TransferStats
from connector.steps import ProducerStep
from connector.transfer import End, Outgoing

if TYPE_CHECKING:
    from connector.fences import Fences

log = logging.getLogger(__name__)

REMEMBERED_ENDS = 4096  # ended transfers whose late or repeated registrations are answered at once


class Producer:
    """Times are in seconds: `patience` is how long one side's share is kept while the other side does not come."""

    def __init__(
        self,
        engine: TransferEngine,
        layout: KVLayout,
        block_size: int,
        fingerprint: str,
        transport: str,
        send: Callable[[str, Message], None],
        fences: "Fences",
        patience: float,
        sender_threads: int,
        stats: TransferStats,
    ) -> None:
        self._engine = engine
        self._layout = layout
        self._block_size = block_size
        self._fingerprint = fingerprint
        self._transport = transport
        self._send = send
        self._fences = fences
        self._patience = patience
        self._stats = stats
        self._transfers: dict[str, Held] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._stepping: list[tuple[Held, int]] = []  # with the token up to which the step computes the prompt
        self._queue: deque[Held] = deque()
        self._finished_requests: set[str] = set()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._closing = False
        self._senders = [
            threading.Thread(target=self._run_sender, name=f"kv-sender-{n}", daemon=True) for n in range(sender_threads)
        ]
        for sender in self._senders:
            sender.start()

    # --- vLLM's thread ---

    def begin_step(self, step: ProducerStep) -> None:
        """Before the forward pass: which prompts it computes and how far; which requests the scheduler gave up."""
        with self._lock:
            self._stepping = []
            for queued in step.queued:
                held = self._owned(queued.transfer_id, queued.request_id)
                if held is not None:
                    held.request_id = queued.request_id  # from now on it may take its time
            for chunk in step.chunks:
                held = self._owned(chunk.transfer_id, chunk.request_id)
                if held is None:
                    continue
                held.request_id = chunk.request_id
                held.state.schedule(chunk.prompt_tokens, chunk.block_ids)
                self._stepping.append((held, min(chunk.step_end, chunk.prompt_tokens)))
                self._settle(held)  # the consumer's prompt may be of another length
            for released in step.released:
                self._release(released.transfer_id, released.request_id, released.complete)

    def rewrite_blocks_of(self, request_ids: list[str]) -> None:
        """Blocks of these requests may be overwritten from now on: returns when no write reads them any more."""
        if not request_ids:
            return
        self._fences.drain()  # what an earlier step computed must not be marked after the blocks are gone
        with self._lock:
            rewritten = [held for held in self._transfers.values() if held.request_id in request_ids]
            for held in rewritten:  # before the wait, so that no other write begins during it
                held.state.forget_blocks()
            for held in rewritten:
                while held.state.writing:
                    self._progress.wait()

    def layer_computed(self, layer: int) -> None:
        """The layer's K and V of this step are written, or enqueued on the GPU."""
        if self._stepping:
            self._fences.after(partial(self._mark, self._stepping, [layer]))

    def step_computed(self) -> None:
        """Every layer of this step is, whether or not `layer_computed` was called for each."""
        if self._stepping:
            self._fences.after(partial(self._mark, self._stepping, range(len(self._layout.layer_addresses))))

    def _mark(self, stepped: list[tuple[Held, int]], layers: Sequence[int]) -> None:
        with self._lock:
            for held, end in stepped:
                for layer in layers:
                    held.state.computed(layer, end)
                if held.state.prefilled and not held.prefill_end:
                    held.prefill_end = time.monotonic()
                self._enqueue(held)

    def take_finished(self, wait: float) -> set[str]:
        """Request ids whose blocks may be freed; waits up to `wait` seconds for one while any is still held."""
        with self._lock:
            if wait and not self._finished_requests and self._transfers:
                self._progress.wait(wait)
            finished, self._finished_requests = self._finished_requests, set()
            return finished

    @property
    def blocks_held(self) -> int:
        """Blocks of ended requests that are kept only for their transfers."""
        with self._lock:
            return sum(len(held.state.block_ids) for held in self._transfers.values() if held.released)

    # --- the control channel's thread ---

    def on_message(self, message: Message) -> None:
        if isinstance(message, Register):
            self._on_register(message)
        elif isinstance(message, Cancel):
            self._on_cancel(message)
        else:
            log.warning("producer: ignored a %s, which only a consumer may receive", type(message).__name__)

    def _on_register(self, registration: Register) -> None:
        with self._lock:
            held = self._held(registration.transfer_id)
            if held is not None and held.state.registration == registration:
                return  # its answer comes with the end: now it would say that nobody writes any more
            refusal = self._refusal(registration, held)
            if held is None or refusal:
                # It ends nothing here: who registers wrongly must not end the transfer of the rightful consumer.
                self._stats.failed(refusal)
                self._send(registration.reply_to, Failed(registration.transfer_id, 0, refusal))
                return
            held.reply_to = registration.reply_to
            held.state.register(registration)
            self._enqueue(held)
            self._settle(held)

    def _refusal(self, registration: Register, held: Held | None) -> str:
        """Why this registration cannot be served; empty when it can."""
        if registration.fingerprint != self._fingerprint:
            return f"wrong layout: the consumer's is {registration.fingerprint}, ours {self._fingerprint}"
        if len(registration.layer_addresses) != len(self._layout.layer_addresses):
            return f"wrong layout: the consumer has {len(registration.layer_addresses)} layers"
        if not registration.block_ids:
            return "bad registration: it names no block"
        if held is None:
            return self._ended[registration.transfer_id]
        if held.state.registration is not None:
            return "bad registration: this transfer is registered already"
        return ""

    def _on_cancel(self, cancel: Cancel) -> None:
        with self._lock:
            held = self._held(cancel.transfer_id)
            if held is None or held.answered:
                self._send(cancel.reply_to, Cancelled(cancel.transfer_id))
                return
            held.reply_to = cancel.reply_to
            held.state.end(End.CANCELLED, "cancelled: the consumer no longer wants it")
            self._settle(held)

    def on_tick(self) -> None:
        """Give up transfers of which one side has not come in time."""
        now = time.monotonic()
        with self._lock:
            for held in [held for held in self._transfers.values() if held.deadline < now]:
                if held.state.registration is None and held.released:
                    held.state.end(End.FAILED, f"no consumer: none came within {self._patience:g} s of the prefill")
                elif held.request_id is None:
                    held.state.end(End.FAILED, f"no prefill: its request did not come within {self._patience:g} s")
                self._settle(held)

    # --- sender threads ---

    def _run_sender(self) -> None:
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                held = self._queue.popleft()
                held.queued = False
                if held.state.writing or not held.state.has_work():
                    continue
                runs = held.state.take()
                pieces = held.pieces(runs, self._layout)
                registration = held.state.registration
                started = time.monotonic()
                held.first_write = held.first_write or started
                early = held.prefill_end == 0.0
            assert registration is not None
            cause = ""
            try:
                self._engine.write(registration.segment, pieces)
            except TransferError as error:
                cause = f"write failed: {error}"
            with self._lock:
                size = sum(piece.length for piece in pieces)
                if cause:
                    held.state.lost(cause)
                else:
                    held.bytes += size
                    held.early_bytes += size if early else 0
                    held.pieces_written += len(pieces)
                    self._stats.wrote(size, len(pieces), time.monotonic() - started)
                    held.state.landed()
                self._enqueue(held)
                self._settle(held)
                self._progress.notify_all()

    # --- with the lock held ---

    def _held(self, transfer_id: str) -> Held | None:
        """The transfer, made at its first mention from either side; None once it has ended."""
        if transfer_id in self._ended:
            return None
        held = self._transfers.get(transfer_id)
        if held is None:
            state = Outgoing(transfer_id, len(self._layout.layer_addresses), self._block_size)
            held = self._transfers[transfer_id] = Held(state, deadline=time.monotonic() + self._patience)
        return held

    def _owned(self, transfer_id: str, request_id: str) -> Held | None:
        """The transfer that this request fills. None where its end was decided before the request came, and where
        another request came first (with n > 1 vLLM makes several requests with the same parameters)."""
        held = self._held(transfer_id)
        return held if held is not None and held.request_id in (None, request_id) else None

    def _enqueue(self, held: Held) -> None:
        if not held.queued and not held.state.writing and held.state.has_work():
            held.queued = True
            self._queue.append(held)
            self._work.notify()

    def _release(self, transfer_id: str, request_id: str, complete: bool) -> None:
        held = self._owned(transfer_id, request_id)
        if held is None:
            self._finished_requests.add(request_id)
            return
        held.request_id = request_id
        held.released = True
        held.deadline = time.monotonic() + self._patience
        if not complete:
            held.state.end(End.FAILED, "aborted: the prefill request ended before its prompt was computed")
        self._settle(held)

    def _settle(self, held: Held) -> None:
        """Tell the consumer the end as soon as it is final; forget the transfer when nobody waits for it any more."""
        state = held.state
        if not state.settled or state.ending is None:
            return
        if not held.answered and held.reply_to:
            held.answered = True
            outcome = held.outcome(self._transport)
            if isinstance(outcome, Done):
                self._stats.delivered(outcome.exposed_seconds, outcome.early_bytes)
            self._send(held.reply_to, outcome)
        if not held.released and held.request_id is not None:
            return  # the request still runs; its release comes with a later step
        if held.request_id is not None:
            self._finished_requests.add(held.request_id)
        end, cause = state.ending
        if end is not End.DONE:
            self._stats.failed(cause)
            log.warning("transfer %s to %s: %s", state.transfer_id, held.reply_to or "nobody", cause)
        del self._transfers[state.transfer_id]
        self._ended[state.transfer_id] = cause or "already delivered: a transfer id serves once"
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)
        self._progress.notify_all()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._work.notify_all()
        for sender in self._senders:
            sender.join(timeout=5)
