"""TCP sockets that know when what they received had arrived at this machine, by the kernel's stamp.

A process reads late when other streams keep it busy or it waits for a core; all that arrived meanwhile would look as if
it came at once. Linux stamps what a TCP socket receives when SO_TIMESTAMPNS is set, and hands out the stamp of the
newest byte read (tcp_recvmsg in net/ipv4/tcp.c). Elsewhere, and where a sandbox gives no stamp, the time of reading
counts.
"""

import socket
import struct
import sys
import time
from typing import Any

import gevent.socket
from geventhttpclient.connectionpool import ConnectionPool

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python has no name for it
_TIMESPEC = struct.Struct("@qq")
_SPACE = socket.CMSG_SPACE(_TIMESPEC.size)


class StampedSocket(gevent.socket.socket):
    """arrived_at: `time.perf_counter()` when the newest byte of the last `recv` was there; never goes back."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrived_at = 0.0
        if sys.platform == "linux":
            self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def recv(self, size: int) -> bytes:
        data: bytes
        data, stamps, _, _ = self.recvmsg(size, _SPACE)
        read_at, late = time.perf_counter(), 0.0
        for _, kind, stamp in stamps:
            if kind == _SO_TIMESTAMPNS and len(stamp) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                # Through the age, because the stamp is of the wall clock, which is set now and then.
                late = max(0, time.time_ns() - (seconds * 10**9 + nanoseconds)) / 1e9
        self.arrived_at = max(self.arrived_at, read_at - late)
        return data


class StampedConnection(ConnectionPool):
    """The pool of a client with one connection."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        super().__init__(host, port, host, port, size=1, connection_timeout=timeout_s, network_timeout=timeout_s)
        self._newest: StampedSocket | None = None

    def arrived_at(self) -> float:
        """Of what was received last."""
        return self._newest.arrived_at if self._newest else time.perf_counter()

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> StampedSocket:
        self._newest = StampedSocket(family, socktype, protocol)
        return self._newest
