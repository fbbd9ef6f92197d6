"""Connections to other ranks' control channels, and the news that one of them is lost.

A connection breaks when it ends, is silent for `SILENT_MS`, or cannot be made. Whether the peer's process has
ended, so that it writes nothing more, is a question to its host's kernel: only that refuses a connection at once. A
peer that does not may come back: it was stopped, or we were and it gave the connection up. It counts as lost when it is
not back within `MEND_S`. What was on its way when the connection broke may not have arrived.
"""

import errno
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from connector.control.awake_time import AwakeTime
from connector.control.control_key import ControlKey
from stack.network import addresses

log = logging.getLogger(__name__)

IDLE_PEER_S = 300.0  # a peer that was not written to for so long has gone, or is cheap to connect to again
HEARTBEAT_MS = 3000
SILENT_MS = 3 * HEARTBEAT_MS
RECONNECT_MAX_MS = 1000  # the longest pause between two attempts: a peer that can be reached again is after it
MEND_S = 3.0
PROBE_S = 1.0  # a kernel that lives answers sooner; also the pause between two probes, and two reports of one loss
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
BROKEN = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | REFUSED
REFUSALS = 5  # in a row, until a peer that has never accepted us counts as one with another key


@dataclass
class _Peer:
    address: str
    dealer: "zmq.Socket[bytes]"
    events: "zmq.Socket[bytes]"
    used: float
    accepted: bool = False  # it has proved our key once
    refusals: int = 0
    probe: socket.socket | None = None
    probed: float = field(default=-PROBE_S)
    broken: bool = False
    silent_at: float | None = None  # when it counts as lost, unless it is back before


class Peers:
    """For the channel's thread alone. `on_lost(address, gone)` may come again for the same loss; `on_back(address)`
    tells that a broken connection stands again, whether or not the peer counted as lost."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        key: ControlKey,
        poller: zmq.Poller,
        on_lost: Callable[[str, bool], None],
        on_back: Callable[[str], None],
    ) -> None:
        self._context = context
        self._key = key
        self._poller = poller
        self._on_lost = on_lost
        self._on_back = on_back
        self._time = AwakeTime()
        self._peers: dict[str, _Peer] = {}

    def send(self, address: str, payload: bytes) -> None:
        """Never blocks. Raises: zmq.ZMQError: for an unusable address, or a peer that takes nothing any more."""
        self.connect(address).send(payload, zmq.NOBLOCK)

    def connect(self, address: str) -> "zmq.Socket[bytes]":
        """The peer's socket, which reports its loss from now on. Raises: zmq.ZMQError: for an unusable address."""
        peer = self._peers.get(address)
        if peer is None:
            dealer = self._context.socket(zmq.DEALER)
            dealer.linger = 0
            dealer.ipv6 = addresses.is_ipv6(urlsplit(address).hostname or "")
            notice_dead_peers(dealer)
            dealer.reconnect_ivl_max = RECONNECT_MAX_MS
            self._key.connect(dealer)
            # Before it connects: ZeroMQ's thread may have done that while this one does not get to run, and who has not
            # been seen to answer counts as lost.
            events = dealer.get_monitor_socket(BROKEN | zmq.EVENT_HANDSHAKE_SUCCEEDED)
            try:
                dealer.connect(address)
            except zmq.ZMQError:
                _end(dealer, events)
                raise
            peer = self._peers[address] = _Peer(address, dealer, events, 0.0)
            peer.silent_at = self._time.now() + SILENT_MS / 1000  # a kernel accepts for a process that is stopped
            self._poller.register(events, zmq.POLLIN)
        peer.used = time.monotonic()
        return peer.dealer

    def handle(self, ready: dict[object, int]) -> None:
        """Look at what the poller found."""
        for peer in list(self._peers.values()):
            if peer.events in ready:
                self._on_event(peer)
            if peer.probe is not None and peer.probe.fileno() in ready:
                self._probed(peer, peer.probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def tick(self) -> None:
        now = time.monotonic()
        self._time.tick()
        for peer in list(self._peers.values()):
            if peer.probe is not None and peer.probed + PROBE_S < now:
                self._probed(peer, errno.ETIMEDOUT)
            if peer.silent_at is not None and peer.silent_at <= self._time.now():
                peer.silent_at = self._time.now() + PROBE_S
                self._on_lost(peer.address, False)
            if peer.used + IDLE_PEER_S < now:
                self._close(peer)

    def close(self) -> None:
        """The sockets themselves go with their context, which lets them send what is queued."""
        for peer in self._peers.values():
            self._end_probe(peer)

    def _on_event(self, peer: _Peer) -> None:
        event = recv_monitor_message(peer.events)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            peer.accepted, peer.refusals, peer.silent_at = True, 0, None
            if peer.broken:
                peer.broken = False
                self._on_back(peer.address)
            return
        peer.broken = True
        if peer.silent_at is None:
            peer.silent_at = self._time.now() + MEND_S
        if event & REFUSED and not peer.accepted:
            # Whose key differs never took a registration of ours. One refusal proves nothing: a busy peer may be late.
            peer.refusals += 1
            if peer.refusals >= REFUSALS:
                self._on_lost(peer.address, True)
        elif peer.probe is None and peer.probed + PROBE_S < time.monotonic():
            self._begin_probe(peer)

    def _begin_probe(self, peer: _Peer) -> None:
        peer.probed = time.monotonic()
        where = urlsplit(peer.address)
        host = where.hostname or ""
        probe = peer.probe = socket.socket(addresses.family(host))
        probe.setblocking(False)
        try:
            code = probe.connect_ex((host, where.port or 0))
        except OSError:  # a name that does not resolve any more
            code = errno.EHOSTUNREACH
        if code == errno.EINPROGRESS:
            self._poller.register(probe.fileno(), zmq.POLLOUT)
        else:
            self._probed(peer, code)

    def _probed(self, peer: _Peer, code: int) -> None:
        self._end_probe(peer)
        if code == errno.ECONNREFUSED:
            self._on_lost(peer.address, True)

    def _end_probe(self, peer: _Peer) -> None:
        if peer.probe is not None:
            if peer.probe.fileno() in self._poller:
                self._poller.unregister(peer.probe.fileno())
            peer.probe.close()
            peer.probe = None

    def _close(self, peer: _Peer) -> None:
        self._end_probe(peer)
        self._poller.unregister(peer.events)
        _end(peer.dealer, peer.events)
        del self._peers[peer.address]


def _end(dealer: "zmq.Socket[bytes]", events: "zmq.Socket[bytes]") -> None:
    dealer.disable_monitor()
    events.close()
    dealer.close()


def notice_dead_peers(socket: "zmq.Socket[bytes]") -> None:
    """A host that is gone without a word closes no connection; what is sent to it would wait for minutes."""
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = SILENT_MS
