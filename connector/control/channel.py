"""The control channel of one rank: it receives messages on its own address and sends to any other rank's.

One thread owns every socket (ZeroMQ sockets may not be shared); `send` from any thread only queues and wakes it.
Messages are one-way and carry what a reply needs, so that nothing here waits for a peer.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable

import msgspec
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from connector.control.control_key import ControlKey
from connector.control.messages import Mended, Message, decode, encode
from connector.control.peers import Peers, notice_dead_peers
from stack.network import addresses

log = logging.getLogger(__name__)

TICK_S = 0.1
MAX_MESSAGE_BYTES = 16 << 20
# Not the failures without detail: a connection that ends before it has said anything is a probe of ours or a port scan.
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
REFUSED_LOG_S = 30.0  # a refused peer tries again ten times a second


class _OnlyThisKey:
    """ZAP decides by the client's public key; only holders of the stack's secret can prove ours."""

    def __init__(self, key: ControlKey) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._key.public


class Channel:
    """Bound when made (port 0: a free one), at work from `serve` on.

    Raises: zmq.ZMQError: when the address cannot be bound.
    """

    def __init__(self, host: str, port: int, key: ControlKey) -> None:
        self._key = key
        # With an address alone, that peer is watched from now on.
        self._outbox: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._stop = threading.Event()
        self._sending = threading.Lock()  # nobody wakes the thread once `close` has begun
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=_OnlyThisKey(key))
        self._server = self._context.socket(zmq.ROUTER)
        self._server.linger = 0
        self._server.ipv6 = addresses.is_ipv6(host)
        self._server.maxmsgsize = MAX_MESSAGE_BYTES
        notice_dead_peers(self._server)
        key.serve(self._server)
        # A peer with another secret fails before ZAP is asked, so only the handshake's own events tell of it.
        self._refusals = self._server.get_monitor_socket(REFUSED)
        self._refusal_logged = -REFUSED_LOG_S
        self._peers: Peers | None = None  # kept until the context ends, which lets its sockets send what is queued
        self._thread: threading.Thread | None = None
        try:
            if port:
                self._server.bind(f"tcp://{addresses.join(host, port)}")
            else:
                port = self._server.bind_to_random_port(f"tcp://{addresses.bracketed(host)}")
        except zmq.ZMQError:
            self.close()
            raise
        self.address = f"tcp://{addresses.join(host, port)}"

    def serve(
        self,
        on_message: Callable[[Message], None],
        on_tick: Callable[[], None],
        on_peer_lost: Callable[[str, bool], None],
        on_peer_back: Callable[[str], None],
    ) -> None:
        """Start the thread. All four run on it and must not block: `on_tick` every `TICK_S` seconds,
        `on_peer_lost(address, gone)` and `on_peer_back(address)` as `Peers` says, for each peer that was sent to or
        watched."""
        self._thread = threading.Thread(
            target=self._run, args=(on_message, on_tick, on_peer_lost, on_peer_back), name="kv-control", daemon=True
        )
        self._thread.start()

    def send(self, address: str, message: Message) -> None:
        """Queue `message` for the rank at `address` (`tcp://host:port`); never blocks, never raises for a dead peer.
        After `close` it does nothing."""
        self._queue(address, encode(message))

    def watch(self, address: str) -> None:
        """Report the loss of the rank at `address`, even if nothing is ever sent to it."""
        self._queue(address, None)

    def _queue(self, address: str, payload: bytes | None) -> None:
        with self._sending:
            if not self._stop.is_set():
                self._outbox.put((address, payload))
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop the thread after what is queued was handed to ZeroMQ; messages to dead peers are dropped."""
        with self._sending:
            if self._stop.is_set():
                return
            self._stop.set()
            os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        self._authenticator.stop()
        self._context.destroy(linger=500)
        os.close(self._wake)

    def _run(
        self,
        on_message: Callable[[Message], None],
        on_tick: Callable[[], None],
        on_peer_lost: Callable[[str, bool], None],
        on_peer_back: Callable[[str], None],
    ) -> None:
        poller = zmq.Poller()
        poller.register(self._server, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._refusals, zmq.POLLIN)
        peers = self._peers = Peers(self._context, self._key, poller, on_peer_lost, on_peer_back)
        next_tick = time.monotonic()
        while not self._stop.is_set():
            ready = dict(poller.poll(max(0, int((next_tick - time.monotonic()) * 1000))))
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._server in ready:
                self._receive(on_message)
            if self._refusals in ready:
                self._log_refusal()
            peers.handle(ready)
            self._send_queued(peers)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                on_tick()
                peers.tick()
        self._send_queued(peers)
        peers.close()

    def _receive(self, on_message: Callable[[Message], None]) -> None:
        while True:
            try:
                frames = self._server.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode(frames[-1])
            except msgspec.DecodeError as error:
                log.warning("control channel: dropped %d bytes that are no message: %s", len(frames[-1]), error)
                continue
            try:
                on_message(message)
            except Exception:  # the rank must go on hearing; what waits for this message's effect has its own deadline
                about = f"of {message.address}" if isinstance(message, Mended) else f"of transfer {message.transfer_id}"
                log.exception("control channel: %s %s", type(message).__name__, about)

    def _log_refusal(self) -> None:
        recv_monitor_message(self._refusals)
        if time.monotonic() >= self._refusal_logged + REFUSED_LOG_S:
            self._refusal_logged = time.monotonic()
            log.warning("control channel %s: refused a peer whose stack key differs (STACK_KEY)", self.address)

    def _send_queued(self, peers: Peers) -> None:
        while True:
            try:
                address, payload = self._outbox.get_nowait()
            except queue.Empty:
                return
            try:
                if payload is None:
                    peers.connect(address)
                else:
                    peers.send(address, payload)
            except zmq.ZMQError as error:
                # A full queue or an unusable address: the peer's own deadline ends the transfer.
                log.warning("control channel: cannot send to %s: %s", address, error)
