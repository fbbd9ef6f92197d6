"""What a rank needs of the control channel."""

from typing import Protocol

from connector.control.messages import Message


class Wire(Protocol):
    """The control channel. `address`: of this rank's end."""

    address: str

    def send(self, address: str, message: Message) -> None: ...

    def watch(self, address: str) -> None:
        """Tell when the peer there is lost."""
