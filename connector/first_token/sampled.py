"""The first tokens that a producer's scheduler sees, on their way to its ranks, which know where to send them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connector.control.messages import Message, Sampled

if TYPE_CHECKING:
    from vllm.v1.request import Request


@dataclass(frozen=True)
class FirstSampled:
    """A request's first token, as a step tells it. The ranks know it already where the message has come."""

    transfer_id: str
    token: int


class SampledTokens:
    """Each goes to the ranks by `send` as soon as it is seen, and once more with the next step: with asynchronous
    scheduling that step begins only when the one before has ended, which another prompt may fill."""

    def __init__(self, engine_id: str, send: Callable[[str, Message], None]) -> None:
        self._engine_id = engine_id
        self._send = send
        self._ranks: Sequence[str] = ()
        self._awaited: dict[str, tuple[Request, str]] = {}  # request id -> request, transfer id
        self._seen: list[FirstSampled] = []

    def set_ranks(self, control: Sequence[str]) -> None:
        """Control addresses of the producer's own ranks."""
        self._ranks = control

    def await_of(self, request: "Request", transfer_id: str) -> None:
        self._awaited[request.request_id] = (request, transfer_id)

    def ended(self, request_id: str) -> None:
        """The request's last token has been sampled, or it was aborted."""
        self._look_at(request_id)
        self._awaited.pop(request_id, None)

    def take(self) -> list[FirstSampled]:
        """For the next step. A request that goes on after its first token is found here."""
        for request_id in list(self._awaited):
            self._look_at(request_id)
        seen, self._seen = self._seen, []
        return seen

    def _look_at(self, request_id: str) -> None:
        request, transfer_id = self._awaited.get(request_id, (None, ""))
        if request is None or not request.num_output_tokens:
            return
        del self._awaited[request_id]
        token = request.output_token_ids[0]
        for address in self._ranks:
            self._send(address, Sampled(transfer_id, self._engine_id, token))
        self._seen.append(FirstSampled(transfer_id, token))
