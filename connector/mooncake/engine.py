"""Mooncake's transfer engine, opened with the transport that was asked for and no other."""

import base64
import json
import logging
import resource
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from connector.cache.pieces import Piece
from connector.mooncake import polled_write
from connector.mooncake.polled_write import Slots, always
from connector.mooncake.transports import TRANSPORTS, obstacle, prepare_environment, progress_timeout
from stack.network.direct_http import open_directly

log = logging.getLogger(__name__)

METADATA_TIMEOUT_S = 5.0
# Mooncake asks etcd under Python's lock when an engine opens and closes, and waits 5 s for each of two answers: while
# etcd is away no step of vLLM would be made. So etcd is waited for before that, without the lock.
ETCD_PATIENCE_S = 15.0
ETCD_PROMPT_S = 1.0  # an answer that takes longer was none
ETCD_PAUSE_S = 0.2
WRITE_TIMEOUT_S = 30.0


class TransferError(RuntimeError):
    """The transfer engine refused or lost something; the text names the peer and Mooncake's return code."""


class UnendedWriteError(TransferError):
    """A write of which bytes may still arrive: pieces did not end, or Mooncake gave up waiting for their end."""


class TransferEngine(Protocol):
    """What the connector needs of a transfer engine; `segment` names this process's memory to its peers."""

    segment: str

    def register(self, address: int, length: int) -> None:
        """Raises: TransferError."""

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        """Move every piece into `segment`'s memory; returns when the last byte has arrived. Once `wanted` says no,
        nothing more is posted.

        Raises: TransferError: when no more bytes move; UnendedWriteError: when their end could not be awaited.
        """

    def close(self) -> None:
        """Peers' writes end here: when it returns, no byte of theirs can come any more. It serves for nothing else
        afterwards."""


class MooncakeEngine:
    """`device_name`: RDMA devices separated by commas; `write_timeout`: seconds within which a write has ended.

    Raises: TransferError: when the engine does not start, e.g. etcd away or no device for the transport.
    """

    def __init__(
        self,
        segment: str,
        host: str,
        metadata_server: str,
        transport: str,
        device_name: str,
        write_timeout: float = WRITE_TIMEOUT_S,
    ) -> None:
        prepare_environment(transport, host, write_timeout)

        import mooncake.engine  # here, because what was prepared is read on import and start

        if reason := obstacle(transport, device_name, mooncake.engine.SUPPORT_INTRA_NVLINK):
            raise TransferError(reason)
        _await_etcd(metadata_server)
        self.segment = segment
        self._metadata_server = metadata_server
        self._transport = transport
        self._device_name = device_name
        self._write_timeout = write_timeout
        self._window = TRANSPORTS[transport].window
        self._slots: dict[str, Slots] = {}  # by peer
        self._engine = mooncake.engine.TransferEngine()
        code = self._engine.initialize(segment, f"etcd://{metadata_server}", transport, device_name)
        if code != 0:
            raise TransferError(
                f"Mooncake did not start as {segment} over {transport} (device {device_name or 'any'}), "
                f"metadata in etcd at {metadata_server}: code {code}"
            )

    def register(self, address: int, length: int) -> None:
        """Also checks the transport in use: some engines publish it only together with memory.

        Raises: TransferError.
        """
        code = self._engine.register_memory(address, length)
        if code != 0:
            raise TransferError(
                f"Mooncake did not register {length} bytes of KV cache for {self._transport}: code {code}"
                f"{_locked_memory_limit(length) if self._transport == 'rdma' else ''}"
            )
        record = self._published()
        if record["protocol"] != self._transport:
            raise TransferError(
                f"MOONCAKE_PROTOCOL={self._transport!r}: Mooncake took {record['protocol']} instead, refusing to start"
            )
        used = {device["name"] for device in record.get("devices", [])}
        if missing := set(filter(None, self._device_name.split(","))) - used if used else set():
            raise TransferError(
                f"MOONCAKE_DEVICE_NAME={self._device_name!r}: Mooncake does not use {', '.join(sorted(missing))}"
            )

    def _published(self) -> dict[str, Any]:
        """What Mooncake wrote to etcd about this segment, through etcd's JSON gateway.

        Not with the etcd3 client: it needs protobuf's pure-Python implementation, in vLLM's processes too.
        """
        key = base64.b64encode(f"mooncake/ram/{self.segment}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self._metadata_server}/v3/kv/range", json.dumps({"key": key}).encode()
        )
        try:
            with open_directly(request, METADATA_TIMEOUT_S) as answer:
                (found,) = json.load(answer)["kvs"]
        except (urllib.error.URLError, TimeoutError, KeyError) as error:
            raise TransferError(
                f"etcd at {self._metadata_server} does not tell which transport {self.segment} uses: {error!r}"
            ) from error
        return dict(json.loads(base64.b64decode(found["value"])))

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        started = time.monotonic()
        if self._window:
            unwritten = polled_write.write(
                lambda piece: int(self._engine.transfer_submit_write(segment, *piece)),
                self._engine.transfer_check_status,
                pieces,
                self._slots.setdefault(segment, Slots(self._window)),
                self._write_timeout,
                wanted,
            )
            # A broken connection delivers nothing more, but one that Mooncake closed for its silence may.
            seconds = time.monotonic() - started
            by_silence = self._transport == "tcp" and seconds >= progress_timeout(self._write_timeout)
            problem, unended = str(unwritten or ""), unwritten.in_flight or by_silence
        elif not wanted():
            problem, unended = "nobody wants them any more", 0
        else:
            code = self._engine.batch_transfer_sync_write(
                segment,
                [piece.source for piece in pieces],
                [piece.target for piece in pieces],
                [piece.length for piece in pieces],
            )
            problem, unended = (f"code {code}" if code else ""), 0
        if problem:
            size = sum(piece.length for piece in pieces)
            kind = UnendedWriteError if unended else TransferError
            raise kind(f"writing {size} bytes in {len(pieces)} pieces to {segment} over {self._transport}: {problem}")

    def close(self) -> None:
        self._await_own_connection()
        del self._engine  # its destructor ends Mooncake's threads, connections and registrations

    def _await_own_connection(self) -> None:
        """It is tried again at ever longer intervals, and may be broken long after etcd answers others again.

        A segment that nobody has is looked for over this connection, with Python's lock given away.
        """
        deadline = time.monotonic() + ETCD_PATIENCE_S
        while (asked := time.monotonic()) < deadline:
            self._engine.transfer_submit_write(f"{self.segment}-nobody", 0, 0, 0)
            if time.monotonic() - asked < ETCD_PROMPT_S:
                return
        log.warning("etcd at %s does not answer Mooncake: closing %s all the same", self._metadata_server, self.segment)


def _await_etcd(endpoint: str) -> None:
    """Raises: TransferError: it does not answer."""
    deadline = time.monotonic() + ETCD_PATIENCE_S
    while True:
        try:
            open_directly(f"http://{endpoint}/health", ETCD_PROMPT_S).close()
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                raise TransferError(
                    f"etcd at {endpoint}, where Mooncake keeps its metadata, does not answer: {error!r}"
                ) from error
            time.sleep(ETCD_PAUSE_S)
        else:
            return


def _locked_memory_limit(length: int) -> str:
    """A guess why a device did not take memory: what it may write to is locked, which a limit bounds."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or limit >= length:
        return ""
    return f"; this process may lock {limit} bytes of memory: raise `ulimit -l` (memlock)"


class LossyEngine:
    """For tests only: claims every write while the file at `switch` exists, and moves nothing.

    The stack's negative control: with it, answers must go wrong, or they never depended on the transfer.
    """

    def __init__(self, engine: TransferEngine, switch: Path) -> None:
        self.segment = engine.segment
        self._engine = engine
        self._switch = switch
        log.warning("TEST SWITCH: writes are dropped while %s exists", switch)

    def register(self, address: int, length: int) -> None:
        self._engine.register(address, length)

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        if not self._switch.exists():
            self._engine.write(segment, pieces, wanted)

    def close(self) -> None:
        self._engine.close()
