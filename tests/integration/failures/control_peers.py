"""Peers on the control channel that a test plays itself.

A stranger sends what it likes. A go-between stands between a consumer and a producer and holds messages back, so that
a transfer stands still at an exact moment.
"""

import asyncio
import threading
from typing import Any, Self, TypeVar

import msgspec

from connector.control.channel import Channel
from connector.control.control_key import ControlKey
from connector.control.messages import Cancel, Message, Register
from tests.integration.failures.failure_stack import SEEN_LIMIT_S

M = TypeVar("M", bound=Message)


class Stranger:
    """A control channel that belongs to no instance, and what arrived on it."""

    def __init__(self, key: ControlKey) -> None:
        self._received: list[Message] = []
        self._news = threading.Condition()
        self._channel = Channel("127.0.0.1", 0, key)
        self.address = self._channel.address
        self._channel.serve(self._on_message, lambda: None, lambda *_: None, lambda _: None)

    def send(self, address: str, message: Message) -> None:
        self._channel.send(address, message)

    async def first(self, kind: type[M]) -> M:
        """The first message of this kind that has arrived or will arrive."""
        return await asyncio.to_thread(self._wait_for, kind)

    def received(self, kind: type[M]) -> list[M]:
        return [message for message in self._received if isinstance(message, kind)]

    def _wait_for(self, kind: type[M]) -> M:
        with self._news:
            assert self._news.wait_for(lambda: self.received(kind), SEEN_LIMIT_S), f"no {kind.__name__} came"
        return self.received(kind)[0]

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_message(self, message: Message) -> None:
        with self._news:
            self._received.append(message)
            self._news.notify_all()


class GoBetween(Stranger):
    """Passes on what a consumer and a producer say to each other, but for the kinds of messages in `hold`.

    `record` is what the consumer is to be told of the producer, so that it talks to us.
    """

    def __init__(self, key: ControlKey, producer: dict[str, Any], hold: tuple[type[Message], ...] = ()) -> None:
        self._hold = hold
        (self._producer,) = producer["control"]
        self._consumer = ""
        super().__init__(key)
        self.record = {**producer, "control": [self.address]}

    def let_pass(self) -> None:
        """What was held goes on its way, and nothing is held any more."""
        held = [message for message in self._received if isinstance(message, self._hold)]
        self._hold = ()
        for message in held:
            self._pass_on(message)

    def _on_message(self, message: Message) -> None:
        super()._on_message(message)
        if isinstance(message, Register | Cancel):
            self._consumer = message.reply_to
        if not isinstance(message, self._hold):
            self._pass_on(message)

    def _pass_on(self, message: Message) -> None:
        if isinstance(message, Register | Cancel):
            self.send(self._producer, msgspec.structs.replace(message, reply_to=self.address))
        else:
            self.send(self._consumer, message)
