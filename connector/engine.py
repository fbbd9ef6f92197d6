"""Mooncake's transfer engine, opened with the transport that was asked for and no other.

Mooncake's `protocol` argument selects nothing: the engine takes RDMA when it finds a device, TCP otherwise. What
decides are environment variables, so they are set here, before the engine is made.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from connector.layout import Piece

log = logging.getLogger(__name__)

TRANSPORTS = ("tcp", "rdma", "nvlink_intra")
AUTO = "auto"  # the best of them that both ends of a transfer have
# Variables that force a transport, and for TCP those that keep many pieces in flight (GPU memory: 1.6 -> 2.4 GB/s,
# host memory: 4 -> 17 GB/s at 1 MiB pieces).
FORCED = {
    "tcp": {"MC_FORCE_TCP": "1"},
    "rdma": {"MC_FORCE_HCA": "1"},
    "nvlink_intra": {"MC_INTRANODE_NVLINK": "1"},
}
TUNED = {"tcp": {"MC_NUM_TCP_IO_THREADS": "8", "MC_TCP_LANES_PER_PEER": "8"}}


class TransferError(RuntimeError):
    """The transfer engine refused or lost something; the text names the peer and Mooncake's return code."""


class TransferEngine(Protocol):
    """What the connector needs of a transfer engine; `segment` names this process's memory to its peers."""

    segment: str

    def register(self, address: int, length: int) -> None: ...

    def write(self, segment: str, pieces: Sequence[Piece]) -> None:
        """Move every piece into `segment`'s memory; returns when the last byte has arrived."""


class MooncakeEngine:
    """Raises: TransferError: when the engine does not start, e.g. etcd away or no device for the transport."""

    def __init__(self, segment: str, host: str, metadata_server: str, transport: str, device_name: str) -> None:
        for forced in FORCED.values():
            for variable in forced:
                os.environ.pop(variable, None)
        os.environ.update(FORCED[transport])
        for variable, value in TUNED.get(transport, {}).items():
            os.environ.setdefault(variable, value)
        # With etcd as metadata server the engine otherwise publishes the first address that is not loopback.
        os.environ["MC_TCP_BIND_ADDRESS"] = host
        os.environ.setdefault("MC_LOG_LEVEL", "WARNING")

        import mooncake.engine  # here, because the variables above are read on import and start

        self.segment = segment
        self._engine = mooncake.engine.TransferEngine()
        code = self._engine.initialize(segment, f"etcd://{metadata_server}", transport, device_name)
        if code != 0:
            raise TransferError(
                f"Mooncake did not start as {segment} over {transport} (device {device_name or 'any'}), "
                f"metadata in etcd at {metadata_server}: code {code}"
            )

    def register(self, address: int, length: int) -> None:
        """Raises: TransferError."""
        code = self._engine.register_memory(address, length)
        if code != 0:
            raise TransferError(f"Mooncake did not register {length} bytes of KV cache: code {code}")

    def write(self, segment: str, pieces: Sequence[Piece]) -> None:
        """Blocks, without the GIL, until the bytes have arrived or the write has failed.

        Raises: TransferError.
        """
        code = self._engine.batch_transfer_sync_write(
            segment,
            [piece.source for piece in pieces],
            [piece.target for piece in pieces],
            [piece.length for piece in pieces],
        )
        if code != 0:
            raise TransferError(f"writing {len(pieces)} pieces to {segment} failed: code {code}")


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

    def write(self, segment: str, pieces: Sequence[Piece]) -> None:
        if not self._switch.exists():
            self._engine.write(segment, pieces)
