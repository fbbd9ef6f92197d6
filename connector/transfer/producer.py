"""The producer's rank: pushes blocks to consumers while the prefill computes, and always tells them how it ended.

vLLM's thread reports chunks and layers, the control channel reports registrations, sender threads write. They share
the transfers under one lock, which nobody holds while writing or waiting for the GPU.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connector.control.awake_time import AwakeTime
from connector.control.messages import Cancel, Cancelled, Done, Failed, Mended, Message, Register, Sampled
from connector.control.misfit import misfit
from connector.control.wire import Wire
from connector.mooncake.engine import TransferError
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import ProducerStep
from connector.telling.stats import TransferStats
from connector.transfer.held import Held, HeldShare
from connector.transfer.senders import Senders
from connector.transfer.share import End, Share
from connector.transfer.step_layers import StepLayers
from connector.transfer.transfers import Transfers

if TYPE_CHECKING:
    from connector.mooncake.fences import Fences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Times in seconds. `patience`: how long one side's share is kept while the other side does not come, not counting
    the time in which this process was stopped. `write_timeout` bounds a write, so that a standstill of this process
    that is longer ends all transfers. `min_stream_tokens`: a step that computes fewer prompt tokens is sent after its
    last layer, not layer by layer; `spare_launches`: neither is what the GPU had computed before the next layer was
    enqueued. `sender_threads`: writes that may be in flight at once.
    """

    patience: float
    write_timeout: float
    min_stream_tokens: int
    sender_threads: int
    spare_launches: bool = False


class Producer:
    """One rank of the instance that is `engine_id`."""

    def __init__(
        self,
        engine_id: str,
        rank: int,
        cache: RankCache,
        wire: Wire,
        fences: "Fences",
        pace: Pace,
        stats: TransferStats,
    ) -> None:
        self._engine_id = engine_id
        self._rank = rank
        self._layout = cache.layout
        self._engines = cache.engines
        self._wire = wire
        self._fences = fences
        self._pace = pace
        self._stats = stats
        self._time = AwakeTime()
        self._transfers = Transfers(cache.layout, self._time, pace.patience)
        self._step = StepLayers(len(cache.layout.layers), fences, self._mark, spare_launches=pace.spare_launches)
        self._finished_requests: set[str] = set()
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)
        self._ticked = time.monotonic()
        self._senders = Senders(cache, self._lock, stats, self._settle, pace.sender_threads, self._has_not_stood_still)

    # --- vLLM's thread ---

    def begin_step(self, step: ProducerStep) -> None:
        """Before the forward pass: which prompts it computes and how far; which requests the scheduler gave up."""
        began = time.monotonic()
        with self._lock:
            stepped: list[tuple[Held, int]] = []
            for queued in step.queued:
                held = self._transfers.owned(queued.transfer_id, queued.request_id)
                if held is not None:
                    held.request_id = queued.request_id  # from now on it may take its time
                    held.prompt.digest = queued.prompt
                    self._check(held)
            for chunk in step.chunks:
                held = self._transfers.owned(chunk.transfer_id, chunk.request_id)
                if held is None:
                    continue
                held.request_id = chunk.request_id
                held.prompt.schedule(chunk.prompt_tokens, chunk.block_ids)
                end = min(chunk.step_end, chunk.prompt_tokens)
                if not held.prefill_end:
                    held.chunks.begins(end, began)
                stepped.append((held, end))
                self._check(held)
            for sampled in step.sampled:
                self._sampled(sampled.transfer_id, sampled.token)
            for released in step.released:
                self._release(released.transfer_id, released.request_id, released.complete)
        tokens = sum(chunk.tokens for chunk in step.chunks)
        self._step.begin(stepped, layer_by_layer=tokens >= self._pace.min_stream_tokens)

    def rewrite_blocks_of(self, request_ids: list[str]) -> None:
        """Blocks of these requests may be overwritten from now on: returns when no write reads them any more."""
        if not request_ids:
            return
        self._fences.drain()  # what an earlier step computed must not be marked after the blocks are gone
        with self._lock:
            rewritten = [held for held in self._transfers.all() if held.request_id in request_ids]
            for held in rewritten:  # before the wait, so that no other write begins during it
                held.prompt.forget_blocks()
            for held in rewritten:
                while any(share.state.writing for share in held.shares.values()):
                    self._progress.wait()

    def layer_computed(self, layer: int) -> None:
        """The layer's cache of this step is written, or enqueued on the GPU."""
        self._step.computed(layer)

    def step_computed(self) -> None:
        """Every layer of this step is, whether or not `layer_computed` was called for each."""
        self._step.all_computed()

    def _mark(self, stepped: list[tuple[Held, int]], layers: Sequence[int]) -> None:
        now = time.monotonic()
        with self._lock:
            for held, end in stepped:
                if self._transfers.get(held.transfer_id) is not held:
                    continue  # it was over before the GPU came so far
                for layer in layers:
                    held.prompt.computed(layer, end)
                if not held.prefill_end:
                    held.chunks.computed(end, now)
                if held.prompt.complete:  # perhaps once more, after a preemption
                    held.prefill_end = held.prefill_end or now
                    self._check(held)  # all that a share wants may have arrived before
                self._senders.enqueue(held)

    def take_finished(self, wait: float) -> set[str]:
        """Request ids whose blocks may be freed; waits up to `wait` seconds for one while any is still held."""
        with self._lock:
            if wait and not self._finished_requests and self._transfers.all():
                self._progress.wait(wait)
            finished, self._finished_requests = self._finished_requests, set()
            return finished

    # --- the control channel's thread ---

    def on_message(self, message: Message) -> None:
        if isinstance(message, Register):
            self._on_register(message)
        elif isinstance(message, Cancel):
            self._on_cancel(message)
        elif isinstance(message, Sampled):
            self._on_sampled(message)
        else:
            log.warning("producer: ignored a %s, which only a consumer may receive", type(message).__name__)

    def _on_register(self, registration: Register) -> None:
        with self._lock:
            held = self._transfers.get(registration.transfer_id)
            known = held.shares.get(registration.rank) if held is not None else None
            if known is not None and known.state.registration == registration:
                # Before the end an answer would say that nobody writes any more; after it, the first may be lost.
                if known.answer is not None:
                    self._wire.send(registration.reply_to, known.answer)
                return
            refusal = self._refusal(registration, held)
            self._stats.registered(refusal)
            if refusal:
                # It ends nothing here: who registers wrongly must not end the transfer of the rightful consumer.
                log.warning("transfer %s: refused %s: %s", registration.transfer_id, registration.reply_to, refusal)
                unended = self._transfers.unended(registration.transfer_id)
                self._wire.send(
                    registration.reply_to, Failed(registration.transfer_id, self._rank, 0, refusal, unended)
                )
                return
            self._wire.watch(registration.reply_to)
            held = self._transfers.open(registration.transfer_id)
            assert held is not None  # one that has ended refuses
            held.expected_shares = registration.shares
            transport = self._engines.choose(registration.segments, registration.host_identity)
            held.shares[registration.rank] = HeldShare(
                Share(held.prompt, registration), transport, registration.segments[transport]
            )
            self._senders.enqueue(held)
            self._settle(held)

    def _on_sampled(self, message: Sampled) -> None:
        with self._lock:
            if message.engine_id == self._engine_id:
                self._sampled(message.transfer_id, message.token)

    def _refusal(self, registration: Register, held: Held | None) -> str:
        """Why this registration cannot be served; empty when it can."""
        if registration.engine_id != self._engine_id:
            return f"restarted: it is meant for {registration.engine_id}, this is {self._engine_id}"
        if reason := misfit(registration, self._layout):
            return reason
        try:
            self._engines.choose(registration.segments, registration.host_identity)
        except TransferError as error:
            return str(error)
        if held is None:
            return self._transfers.ended(registration.transfer_id)
        return held.refusal(registration)

    def _on_cancel(self, cancel: Cancel) -> None:
        with self._lock:
            held = self._transfers.open(cancel.transfer_id)
            share = None
            if held is not None:
                held.end(End.CANCELLED, "cancelled: the consumer no longer wants it")
                share = next((share for share in held.shares.values() if share.reply_to == cancel.reply_to), None)
            if share is None or share.answered:
                unended = self._transfers.unended(cancel.transfer_id)
                self._wire.send(cancel.reply_to, Cancelled(cancel.transfer_id, self._rank, unended))
            if held is not None:
                self._settle(held)

    def on_peer_lost(self, address: str, gone: bool) -> None:
        """The consumer's rank there has ended (`gone`), or has been silent for long: write nothing more to it."""
        cause = f"consumer lost: {address} {'has ended' if gone else 'is silent'}"
        with self._lock:
            for held in self._transfers.all():
                for share in held.shares.values():
                    if share.reply_to == address:
                        share.state.end(End.FAILED, cause)
                        share.answered = share.answered or gone
                self._settle(held)

    def on_peer_back(self, address: str) -> None:
        """Answers may be lost, and only the consumer's rank there knows which it misses."""
        self._wire.send(address, Mended(self._wire.address))

    def _has_not_stood_still(self) -> bool:
        """A process that was stopped must not go on with its writes when it wakes: meanwhile its consumers may have
        taken their memory back."""
        return time.monotonic() - self._ticked < self._pace.write_timeout

    def on_tick(self) -> None:
        """Give up transfers of which one side has not come in time, and all when this process was away for long."""
        now = time.monotonic()
        self._time.tick()
        with self._lock:
            if not self._has_not_stood_still():
                for held in self._transfers.all():
                    held.end(End.FAILED, f"standstill: the producer was stopped for {now - self._ticked:.0f} s")
                    self._settle(held)
            self._ticked = now  # only now, when every share has its end
            for held in [held for held in self._transfers.all() if held.deadline < self._time.now()]:
                if held.released and not held.all_registered:
                    held.end(End.FAILED, f"no consumer: none came within {self._pace.patience:g} s of the prefill")
                elif held.request_id is None:
                    held.end(End.FAILED, f"no prefill: its request did not come within {self._pace.patience:g} s")
                self._settle(held)

    # --- with the lock held ---

    def _check(self, held: Held) -> None:
        """The consumer's prompt may be another one, or all that it wants may be there."""
        for share in held.shares.values():
            share.state.check()
        self._settle(held)

    def _release(self, transfer_id: str, request_id: str, complete: bool) -> None:
        held = self._transfers.owned(transfer_id, request_id)
        if held is None:
            self._finished_requests.add(request_id)
            return
        held.request_id = request_id
        held.released = True
        held.deadline = self._time.now() + self._pace.patience
        if not complete:
            held.end(End.FAILED, "aborted: the prefill request ended before its prompt was computed")
        self._settle(held)

    def _sampled(self, transfer_id: str, token: int) -> None:
        held = self._transfers.get(transfer_id)
        if held is not None and held.first_token is None:
            held.first_token = token
            self._settle(held)

    def _settle(self, held: Held) -> None:
        """Tell each rank its share's end as soon as it is final; forget the transfer when nobody waits for it."""
        self._progress.notify_all()
        if not self._rank and (told := held.take_first_token(self._engine_id)):  # by one rank only; Done says the same
            self._wire.send(*told)
        for share in held.shares.values():
            if share.is_final and not share.answered and not held.awaits_first_token(share):
                share.answered = True
                share.answer = share.outcome(self._rank, held)
                if isinstance(share.answer, Done):
                    self._stats.delivered(share.answer)
                self._wire.send(share.reply_to, share.answer)
        if not held.settled or (not held.released and held.request_id is not None):
            return  # not over, or its request still runs: its release comes with a later step
        if held.request_id is not None:
            self._finished_requests.add(held.request_id)
        cause = held.cause
        if cause:
            transports = [share.transport for share in held.shares.values()]
            self._stats.failed(cause, transports[0] if transports else "")
            peers = ", ".join(share.reply_to for share in held.shares.values())
            log.warning("transfer %s to %s: %s", held.transfer_id, peers or "nobody", cause)
        self._transfers.forget(held)

    def close(self) -> None:
        self._senders.close()
