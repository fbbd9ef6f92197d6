"""The consumer's rank: waits for the producer's word on each transfer and tells vLLM which blocks are valid.

The registration itself is sent by the scheduler's side, which is earlier; an answer may therefore be here before the
worker has heard of the request.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from connector.control.awake_time import AwakeTime
from connector.control.messages import Cancel, Cancelled, Done, Failed, Mended, Message, Outcome
from connector.control.wire import Wire
from connector.mooncake.checksum import checksum_of_registered
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import ConsumerStep, Load, sum_of_shares, unfilled
from connector.telling.stats import TransferStats
from connector.transfer.revocation import AFTER_A_PEERS_END, BY_A_SILENT_PEER

log = logging.getLogger(__name__)

# After its producer's process has ended, what it had sent may still be on the network or in this host's buffers.
LAST_BYTES_S = 1.0


@dataclass
class _Waiting:
    load: Load
    missing: dict[int, str]  # ranks of the producer that have not answered, with their control addresses
    deadline: float
    answers: list[Outcome] = field(default_factory=list)
    lost: dict[int, float] = field(default_factory=dict)  # ranks that have ended -> when no byte can come any more
    silent: dict[int, float] = field(default_factory=dict)  # ranks that may live -> when to wait for them no longer
    cancelled: bool = False  # the producer was told to stop
    aborted: bool = False  # nobody waits for the blocks' contents any more
    open_to: set[str] = field(default_factory=set)  # transports over which bytes may come after the last answer

    def segments(self, rank: int) -> dict[str, str]:
        """Of the consumer's rank, by transport, as registered with every rank of the producer."""
        return next(iter(self.load.registrations[rank].values())).segments

    def outcome(self, rank: int) -> Outcome:
        """Of the whole transfer, once every rank of the producer has answered this rank of the consumer."""
        done = [answer for answer in self.answers if isinstance(answer, Done)]
        if len(done) == len(self.answers):
            if lacking := unfilled(self.load.registrations[rank], done):
                cause = f"not whole: no rank of the producer has {', '.join(place.name for place in lacking)}"
                return Failed(self.load.transfer_id, done[0].rank, 0, cause)
            return sum_of_shares(done)
        failed = [answer for answer in self.answers if isinstance(answer, Failed)]
        if len(done) + len(failed) == len(self.answers):
            return min(failed, key=lambda answer: answer.delivered_blocks)
        return Cancelled(self.load.transfer_id, 0)


class Consumer:
    """Times are in seconds: `timeout` bounds the wait for a transfer, `cancel_timeout` the wait for a silent producer,
    and for a word that it has stopped writing. Without one, what may still be written to is taken back first: `revoked`
    is `Revocation.over`. None of them passes while this process is stopped."""

    def __init__(
        self,
        rank: int,
        cache: RankCache,
        wire: Wire,
        timeout: float,
        cancel_timeout: float,
        revoked: Callable[[Mapping[str, str], Collection[str]], bool],
        stats: TransferStats,
    ) -> None:
        self._rank = rank
        self._layout = cache.layout
        self._memory = cache.memory
        self._wire = wire
        self._timeout = timeout
        self._cancel_timeout = cancel_timeout
        self._revoked = revoked
        self._stats = stats
        self._time = AwakeTime()
        self._waiting: dict[str, _Waiting] = {}
        self._early: dict[str, tuple[list[Outcome], float]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._invalid_blocks: set[int] = set()
        self._failed: set[str] = set()
        self._done: dict[str, Done] = {}
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)

    # --- vLLM's thread ---

    def begin_step(self, step: ConsumerStep) -> None:
        now = self._time.now()
        with self._lock:
            for load in step.loads:
                missing = {rank: load.producers[rank] for rank in load.registrations[self._rank]}
                self._waiting[load.transfer_id] = _Waiting(load, missing, now + self._timeout)
                for address in missing.values():
                    self._wire.watch(address)
                for answer in self._early.pop(load.transfer_id, ([], 0.0))[0]:
                    self._answered(answer)
            for transfer_id in step.aborted:
                waiting = self._waiting.get(transfer_id)
                if waiting is not None:
                    waiting.aborted = True
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
        """Blocks of finished transfers that did not arrive, where vLLM can go on from those that did."""
        with self._lock:
            invalid, self._invalid_blocks = self._invalid_blocks, set()
            return invalid

    def take_failed(self) -> set[str]:
        """Request ids of finished transfers of which nothing can be used, where it is all or nothing."""
        with self._lock:
            failed, self._failed = self._failed, set()
            return failed

    def take_done(self) -> dict[str, Done]:
        """Facts of the transfers that arrived whole, by request id."""
        with self._lock:
            done, self._done = self._done, {}
            return done

    def _account(self, waiting: _Waiting, outcome: Outcome) -> None:
        load = waiting.load
        if isinstance(outcome, Done):
            self._done[load.request_id] = outcome
            shares = [answer for answer in waiting.answers if isinstance(answer, Done)]
            for index, share in enumerate(shares):
                first = self._rank == index == 0  # the tokens of one share are those of all
                self._stats.received(share, load.tokens if first else 0)
            return
        if waiting.aborted:
            return
        if isinstance(outcome, Cancelled):  # nobody here aborted it, so it was cancelled for its time-out
            outcome = Failed(load.transfer_id, 0, 0, "timed out: the producer stopped when it was told to")
        usable = 0
        if self._layout.partial_loads:
            usable = outcome.delivered_blocks
            self._invalid_blocks.update(load.block_ids[0][usable:])
        else:
            self._failed.add(load.request_id)
        self._stats.failed(outcome.cause)
        log.warning(
            "transfer %s from %s failed after %d of %d blocks: %s",
            load.transfer_id,
            load.producers[outcome.rank],
            usable,
            sum(map(len, load.block_ids)),
            outcome.cause,
        )

    # --- the control channel's thread ---

    def on_message(self, message: Message) -> None:
        if isinstance(message, Mended):
            self.on_peer_back(message.address)
            return
        if not isinstance(message, Done | Failed | Cancelled):
            log.warning("consumer: ignored a %s, which only a producer may receive", type(message).__name__)
            return
        with self._lock:
            if message.transfer_id in self._waiting:
                self._answered(message)
            else:
                answers, _ = self._early.get(message.transfer_id, ([], 0.0))
                self._early[message.transfer_id] = ([*answers, message], self._time.now() + self._timeout)

    def on_peer_lost(self, address: str, gone: bool) -> None:
        """The producer's rank there has ended (`gone`): it writes nothing more. Else it has been silent for long and
        may still write: perhaps it comes back."""
        now = self._time.now()
        with self._lock:
            for waiting in self._waiting.values():
                for rank in [rank for rank, there in waiting.missing.items() if there == address]:
                    if gone:
                        waiting.lost.setdefault(rank, now + LAST_BYTES_S)
                    else:
                        waiting.silent.setdefault(rank, now + self._cancel_timeout)

    def on_peer_back(self, address: str) -> None:
        """The producer's rank there can be reached again. Words of ours or of its own may have been lost: it is told
        once more what is wanted of it, and answers again where it has answered."""
        with self._lock:
            for waiting in self._waiting.values():
                for rank in [rank for rank, there in waiting.missing.items() if there == address]:
                    waiting.silent.pop(rank, None)
                    self._wire.send(
                        address,
                        Cancel(waiting.load.transfer_id, self._wire.address)
                        if waiting.cancelled
                        else waiting.load.registrations[self._rank][rank],
                    )

    def on_tick(self) -> None:
        self._time.tick()
        now = self._time.now()
        with self._lock:
            for transfer_id, waiting in self._waiting.items():
                for rank in [rank for rank in waiting.missing if waiting.lost.get(rank, now) < now]:
                    waiting.open_to |= AFTER_A_PEERS_END
                    cause = f"producer lost: {waiting.missing[rank]} has ended"
                    self._answered(Failed(transfer_id, rank, 0, cause))
                for rank in [rank for rank in waiting.missing if waiting.silent.get(rank, now) < now]:
                    self._cancel(waiting, now)  # should it ever come back
                    self._without_a_word(waiting, rank)
                if waiting.deadline > now or not waiting.missing:
                    continue
                if not waiting.cancelled:
                    log.warning("transfer %s: no word for %g s, cancelling it", transfer_id, self._timeout)
                    self._cancel(waiting, now)
                else:
                    for rank in list(waiting.missing):
                        self._without_a_word(waiting, rank)
            for waiting in self._waiting.values():
                if not waiting.missing:
                    self._end(waiting)
            self._early = {key: value for key, value in self._early.items() if value[1] > now}

    # --- with the lock held ---

    def _answered(self, answer: Outcome) -> None:
        """The first answer of a rank counts; the last rank's ends the transfer."""
        waiting = self._waiting[answer.transfer_id]
        address = waiting.missing.get(answer.rank)
        if address is None:
            return
        if isinstance(answer, Done) and not self._proves(waiting.load, answer):
            cause = f"checksum: what arrived from {address} is not what it sent"
            answer = Failed(answer.transfer_id, answer.rank, 0, cause)
        del waiting.missing[answer.rank]  # only now: an answer that could not be proven has not come
        if not isinstance(answer, Done) and answer.unended:
            waiting.open_to |= BY_A_SILENT_PEER
        waiting.answers.append(answer)
        if not waiting.missing:
            self._end(waiting)

    def _without_a_word(self, waiting: _Waiting, rank: int) -> None:
        cause = f"timed out: {waiting.missing[rank]} did not answer"
        self._answered(Failed(waiting.load.transfer_id, rank, 0, cause, unended=True))

    def _end(self, waiting: _Waiting) -> None:
        """Once nobody can write into the blocks; asked again with each tick until then."""
        if self._revoked(waiting.segments(self._rank), waiting.open_to):
            self._outcomes[waiting.load.transfer_id] = waiting.outcome(self._rank)
            self._news.notify_all()

    def _proves(self, load: Load, done: Done) -> bool:
        if done.checksum is None:
            return True
        registration = load.registrations[self._rank][done.rank]
        return done.checksum == checksum_of_registered(self._memory, self._layout, registration, done.filled)

    def _cancel(self, waiting: _Waiting, now: float) -> None:
        if waiting.cancelled:
            return
        waiting.cancelled = True
        waiting.deadline = now + self._cancel_timeout
        for address in waiting.missing.values():
            self._wire.send(address, Cancel(waiting.load.transfer_id, self._wire.address))
