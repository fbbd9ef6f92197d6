"""Real channels over loopback."""

import logging
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from connector.control.channel import Channel
from connector.control.control_key import ControlKey
from connector.control.messages import Cancel, Cancelled, Message
from tests.unit.connector.fakes import LIMIT_S, until

KEY = ControlKey.from_secret("the key of this stack")
OTHER_KEY = ControlKey.from_secret("the key of another stack")


class Listener:
    """A serving channel and what arrived on it."""

    def __init__(self, key: ControlKey = KEY, host: str = "127.0.0.1") -> None:
        self.channel = Channel(host, 0, key)
        self.received: list[Message] = []
        self.ticked = threading.Event()
        self.lost: list[tuple[str, bool]] = []
        self.back: list[str] = []
        self.channel.serve(self._on_message, self.ticked.set, lambda *loss: self.lost.append(loss), self.back.append)
        self.address = self.channel.address

    def _on_message(self, message: Message) -> None:
        self.received.append(message)

    def until_received(self, *messages: Message) -> None:
        until(lambda: len(self.received) >= len(messages))
        assert self.received == list(messages)


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners: list[Listener] = []

    def make(key: ControlKey = KEY, host: str = "127.0.0.1") -> Listener:
        listeners.append(Listener(key, host))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.channel.close()


Listen = Callable[..., Listener]


def numbered(count: int) -> list[Message]:
    return [Cancelled(f"t{number}", 0) for number in range(count)]


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::1")])
def test_messages_arrive_both_ways_and_in_order(listen: Listen, hosts: tuple[str, str]) -> None:
    one, two = (listen(host=host) for host in hosts)
    for message in numbered(50):
        one.channel.send(two.address, message)
        two.channel.send(one.address, message)
    one.until_received(*numbered(50))
    two.until_received(*numbered(50))


def test_a_channel_reaches_itself(listen: Listen) -> None:
    one = listen()
    one.channel.send(one.address, Cancelled("t", 0))
    one.until_received(Cancelled("t", 0))


def test_many_threads_may_send(listen: Listen) -> None:
    one, two = listen(), listen()

    def send() -> None:
        for message in numbered(50):
            one.channel.send(two.address, message)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(two.received) == 200)


def test_a_message_that_cannot_be_handled_is_logged_and_the_next_one_heard(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Message] = []

    def hear(message: Message) -> None:
        heard.append(message)
        if len(heard) == 1:
            raise RuntimeError("out of memory")

    failing = Channel("127.0.0.1", 0, KEY)
    try:
        failing.serve(hear, lambda: None, lambda *_: None, lambda _: None)
        one = listen()
        for message in numbered(2):
            one.channel.send(failing.address, message)
        until(lambda: heard == numbered(2))
    finally:
        failing.close()
    assert "control channel: Cancelled of transfer t0" in caplog.text
    assert "RuntimeError: out of memory" in caplog.text


def test_a_message_may_be_answered_from_the_callback(listen: Listen) -> None:
    """Producer and consumer do so with their lock held: `send` must not wait for the channel's thread."""
    answering = Channel("127.0.0.1", 0, KEY)
    try:
        one = listen()
        answering.serve(
            lambda message: answering.send(one.address, Cancelled("t", 0)),
            lambda: None,
            lambda *_: None,
            lambda _: None,
        )
        one.channel.send(answering.address, Cancel("t", one.address))
        one.until_received(Cancelled("t", 0))
    finally:
        answering.close()


def test_the_thread_sleeps_again_after_a_message(listen: Listen) -> None:
    one, two = listen(), listen()
    one.channel.send(two.address, Cancelled("t", 0))
    two.until_received(Cancelled("t", 0))
    until(lambda: not select.select([one.channel._wake], [], [], 0)[0])


def test_ticks_come_without_messages(listen: Listen) -> None:
    one = listen()
    for _ in range(2):
        one.ticked.clear()
        assert one.ticked.wait(LIMIT_S)


def test_another_key_gets_nothing_through(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    one, stranger = listen(), listen(OTHER_KEY)
    stranger.channel.send(one.address, Cancelled("bad", 0))
    one.channel.send(stranger.address, Cancelled("bad", 0))
    friend = listen()
    friend.channel.send(one.address, Cancelled("good", 0))
    one.until_received(Cancelled("good", 0))
    assert stranger.received == []
    for address in (one.address, stranger.address):
        refused = f"control channel {address}: refused a peer whose stack key differs"
        until(lambda text=refused: text in caplog.text)  # type: ignore[misc]
        assert caplog.text.count(refused) == 1  # although the peer goes on trying


def test_a_peer_that_knows_only_our_public_key_is_refused(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    """It can encrypt to us; the authenticator looks at whose key it proves."""
    one = listen()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    public, secret = zmq.curve_keypair()
    with context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.curve_publickey, dealer.curve_secretkey, dealer.curve_serverkey = public, secret, KEY.public
        dealer.connect(one.address)
        dealer.send(b"\x80")
        until(lambda: "refused a peer whose stack key differs" in caplog.text)
    assert one.received == []


def test_garbage_is_dropped_and_the_next_message_arrives(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    one, friend = listen(), listen()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        KEY.connect(dealer)
        dealer.connect(one.address)
        dealer.send(b"no message at all")
        until(lambda: "dropped 17 bytes that are no message" in caplog.text)
    with socket.create_connection(("127.0.0.1", int(one.address.rpartition(":")[2]))) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    friend.channel.send(one.address, Cancelled("t", 0))
    one.until_received(Cancelled("t", 0))


def test_a_dead_address_holds_up_nobody(listen: Listen) -> None:
    one, two = listen(), listen()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        for dead in (f"tcp://127.0.0.1:{silent.getsockname()[1]}", "tcp://127.0.0.1:1"):
            for message in numbered(2000):  # more than ZeroMQ queues for one peer
                one.channel.send(dead, message)
        one.channel.send(two.address, Cancelled("t", 0))
        two.until_received(Cancelled("t", 0))


def test_an_unusable_address_is_logged_and_costs_no_socket(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    one, two = listen(), listen()
    for _ in range(1100):  # more than a ZeroMQ context has sockets
        one.channel.send("not an address", Cancelled("bad", 0))
    one.channel.send(two.address, Cancelled("t", 0))
    two.until_received(Cancelled("t", 0))
    assert "cannot send to not an address" in caplog.text


def test_idle_peers_are_dropped_and_found_again(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = listen(), listen()
    one.channel.send(two.address, Cancelled("t0", 0))
    two.until_received(Cancelled("t0", 0))
    monkeypatch.setattr("connector.control.peers.IDLE_PEER_S", 0.0)
    until(lambda: one.channel._peers is not None and not one.channel._peers._peers)
    monkeypatch.undo()
    one.channel.send(two.address, Cancelled("t1", 0))
    two.until_received(Cancelled("t0", 0), Cancelled("t1", 0))


def test_what_was_sent_before_the_close_arrives(listen: Listen) -> None:
    one = listen()
    leaving = Channel("127.0.0.1", 0, KEY)
    leaving.serve(lambda _: None, lambda: None, lambda *_: None, lambda _: None)
    leaving.send(one.address, Cancelled("t0", 0))
    one.until_received(Cancelled("t0", 0))  # the connection stands
    for message in numbered(20)[1:]:
        leaving.send(one.address, message)
    leaving.close()
    one.until_received(*numbered(20))


def test_after_the_close_no_thread_is_left_and_sending_is_harmless() -> None:
    before = set(threading.enumerate())
    channel = Channel("127.0.0.1", 0, KEY)
    channel.serve(lambda _: None, lambda: None, lambda *_: None, lambda _: None)
    assert {thread.name for thread in set(threading.enumerate()) - before} >= {"kv-control"}
    channel.send("tcp://127.0.0.1:1", Cancelled("t", 0))
    channel.close()
    assert set(threading.enumerate()) <= before
    channel.send("tcp://127.0.0.1:1", Cancelled("t", 0))


def test_a_channel_that_never_served_can_be_closed() -> None:
    before = set(threading.enumerate())
    Channel("127.0.0.1", 0, KEY).close()
    assert set(threading.enumerate()) <= before


def test_an_address_in_use_is_an_error_that_leaves_nothing_behind(listen: Listen) -> None:
    one = listen()
    before = set(threading.enumerate())
    with pytest.raises(zmq.ZMQError, match="Address already in use"):
        Channel("127.0.0.1", int(one.address.rpartition(":")[2]), KEY)
    assert set(threading.enumerate()) <= before


@pytest.fixture(autouse=True)
def every_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "connector")


def test_a_peer_that_ends_is_reported_as_gone(listen: Listen) -> None:
    one, two = listen(), listen()
    one.channel.watch(two.address)
    one.channel.send(two.address, Cancelled("t", 0))
    two.until_received(Cancelled("t", 0))
    assert one.lost == []
    two.channel.close()
    until(lambda: (two.address, True) in one.lost)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://[::1]:1"])
def test_a_peer_that_never_was_is_reported_as_gone(listen: Listen, address: str) -> None:
    one = listen()
    one.channel.watch(address)
    until(lambda: one.lost == [(address, True)])


def test_a_peer_with_another_key_is_reported_as_gone(listen: Listen) -> None:
    """It never took a registration of ours, so it will never write."""
    one, stranger = listen(), listen(OTHER_KEY)
    one.channel.watch(stranger.address)
    until(lambda: (stranger.address, True) in one.lost)


def _has_accepted(channel: Channel, address: str) -> bool:
    peers = channel._peers
    return peers is not None and address in peers._peers and peers._peers[address].accepted


def test_a_connection_that_breaks_and_is_mended_is_reported_to_its_end_and_loses_nobody(listen: Listen) -> None:
    one = listen()
    two = Channel("127.0.0.1", 0, KEY)
    port = int(two.address.rpartition(":")[2])
    two.serve(lambda _: None, lambda: None, lambda *_: None, lambda _: None)
    one.channel.send(two.address, Cancelled("t0", 0))
    until(lambda: _has_accepted(one.channel, two.address))
    assert one.back == []
    two.close()
    heard: list[Message] = []
    again = Channel("127.0.0.1", port, KEY)
    try:
        again.serve(heard.append, lambda: None, lambda *_: None, lambda _: None)
        until(lambda: one.back == [again.address])
        one.channel.send(again.address, Cancelled("t1", 0))
        until(lambda: Cancelled("t1", 0) in heard)
    finally:
        again.close()
    assert (two.address, False) not in one.lost, "it was back in time"


def test_a_peer_that_answers_before_we_look_is_no_silent_one(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may stand still behind any line, and ZeroMQ's own goes on and connects."""
    monkeypatch.setattr("connector.control.peers.SILENT_MS", 500)
    watched = zmq.Socket.get_monitor_socket

    def late(*arguments: Any, **more: Any) -> Any:
        time.sleep(0.2)
        events = watched(*arguments, **more)
        time.sleep(0.2)
        return events

    one, two = listen(), listen()
    monkeypatch.setattr(zmq.Socket, "get_monitor_socket", late)
    one.channel.send(two.address, Cancelled("t", 0))
    two.until_received(Cancelled("t", 0))
    time.sleep(1.2)  # longer than it may be silent, and than the pause between two reports
    assert one.lost == []


def test_a_peer_that_is_silent_is_reported_but_not_as_gone(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may live on and write: a stopped one, or one behind a cut wire."""
    monkeypatch.setattr("connector.control.peers.HEARTBEAT_MS", 50)
    monkeypatch.setattr("connector.control.peers.SILENT_MS", 150)
    monkeypatch.setattr("connector.control.peers.MEND_S", 0.1)
    one = listen()
    code = (
        "import sys; from connector.control.channel import Channel\n"
        "from connector.control.control_key import ControlKey\n"
        "c = Channel('127.0.0.1', 0, ControlKey.from_secret('the key of this stack'))\n"
        "c.serve(print, lambda: None, print, print); print(c.address, flush=True); sys.stdin.read(); c.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdout is not None
        address = peer.stdout.readline().strip()
        one.channel.watch(address)
        friend = listen()
        one.channel.send(friend.address, Cancelled("t", 0))
        friend.until_received(Cancelled("t", 0))
        peer.send_signal(signal.SIGSTOP)
        try:
            until(lambda: (address, False) in one.lost)
            assert (address, True) not in one.lost
        finally:
            peer.send_signal(signal.SIGCONT)
        until(lambda: address in one.back)
        peer.kill()
        until(lambda: (address, True) in one.lost)
