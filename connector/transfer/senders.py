"""The threads that write shares: each write takes everything that is final then, so that a slow network gets few and
large writes and a fast one gets every layer at once."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from connector.cache.pieces import Piece
from connector.mooncake.engine import TransferError, UnendedWriteError
from connector.mooncake.rank_cache import RankCache
from connector.telling.stats import TransferStats
from connector.transfer.held import BlockTables, Held, HeldShare
from connector.transfer.share import Run

log = logging.getLogger(__name__)


class Senders:
    """At most one write of a share is in flight. `lock` guards all transfers; nobody holds it while writing.

    `returned` is called with the lock held after each write. `may_post` says whether this process is in time at all.
    """

    def __init__(
        self,
        cache: RankCache,
        lock: threading.Lock,
        stats: TransferStats,
        returned: Callable[[Held], None],
        threads: int,
        may_post: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._may_post = may_post
        self._lock = lock
        self._stats = stats
        self._returned = returned
        self._queue: deque[tuple[Held, HeldShare]] = deque()
        self._work = threading.Condition(lock)
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"kv-sender-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def enqueue(self, held: Held) -> None:
        """With the lock held: let every share of the transfer that has work be written."""
        for share in held.shares.values():
            if not share.queued and not share.state.writing and share.state.has_work():
                share.queued = True
                self._queue.append((held, share))
                self._work.notify()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                held, share = self._queue.popleft()
                share.queued = False
                if share.state.writing or not share.state.has_work():
                    continue
                runs = share.state.take()
                if not runs:  # a wanted block is gone
                    self._returned(held)
                    continue
                block_ids = held.prompt.block_ids
                early = held.prefill_end == 0.0
            started = time.monotonic()
            share.first_write = share.first_write or started
            pieces, cause, unended = self._move(held.transfer_id, share, runs, block_ids)
            size = sum(piece.length for piece in pieces)
            seconds = time.monotonic() - started
            log.debug(
                "transfer %s: layers %d to %d, %d bytes in %d pieces, from %.6f for %.6f s%s",
                held.transfer_id,
                runs[0].layer,
                runs[-1].layer,
                size,
                len(pieces),
                started,
                seconds,
                "" if early else ", after the prefill",
            )
            with self._lock:
                if cause:
                    share.state.lost(cause, unended)
                else:
                    share.bytes += size
                    share.early_bytes += size if early else 0
                    share.pieces_written += len(pieces)
                    if share.write_times is not None:
                        share.write_times.add(runs[0].layer, runs[-1].layer, size, started, started + seconds)
                    self._stats.wrote(share.transport, size, len(pieces), seconds)
                    share.state.landed()
                self.enqueue(held)
                self._returned(held)

    def _move(
        self, transfer_id: str, share: HeldShare, runs: list[Run], block_ids: BlockTables
    ) -> tuple[list[Piece], str, bool]:
        """Returns: the writes, and the rest as `_write`. Whatever else goes wrong, like a copy from the GPU, is told to
        the consumer too: a thread that ended by it would leave the share in flight, and its blocks held, for ever."""
        pieces: list[Piece] = []
        try:
            pieces = share.pieces(runs, self._cache.layout, block_ids)
            cause, unended = self._write(share, pieces)
            if not cause:
                share.add_to_checksums(runs, self._cache.layout, block_ids, self._cache.memory)
        except Exception as error:
            log.exception("transfer %s to %s", transfer_id, share.reply_to)
            return pieces, f"write failed: {error!r}", True  # perhaps in the middle of it
        return pieces, cause, unended

    def _write(self, share: HeldShare, pieces: list[Piece]) -> tuple[str, bool]:
        """Twice if need be: a connection may break while both ends live, and the same bytes may go to the same place
        again. Not when the share has ended meanwhile: then even what is left of the first attempt is not posted,
        because a consumer that hears nothing for long takes its memory back. And not behind pieces without an end,
        of which bytes could arrive after those of the second attempt.

        Returns: why it failed both times, empty when every byte has arrived; and whether bytes may still arrive.
        """

        def wanted() -> bool:
            return share.state.ending is None and self._may_post()

        cause, unended = "", False
        for attempt in ("first", "second"):
            try:
                self._cache.engines.write(share.transport, share.segment, pieces, wanted)
                return "", False
            except TransferError as error:
                cause = f"write failed: {error}"
                log.warning("%s attempt to write to %s: %s", attempt, share.reply_to, error)
                unended = isinstance(error, UnendedWriteError)
            if unended or share.state.ending is not None:
                break
        return cause, unended
