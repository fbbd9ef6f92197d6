"""What a workload is: it says of every request, by its index, what is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """`input_tokens` and `output_tokens` are what the server will count; None: not known beforehand."""

    path: str
    body: dict[str, Any]
    input_tokens: int | None = None
    output_tokens: int | None = None


class Workload(Protocol):
    """Requests by index, from 0, each a function of settings, tokenizer and index alone."""

    @property
    def requests(self) -> int | None:
        """How many there are; None: as many as one likes."""

    @property
    def start_times(self) -> Sequence[float] | None:
        """When a request starts, in seconds from the first's start; None: the workload does not say."""

    def request(self, index: int) -> CompletionRequest: ...


def streamed(**members: Any) -> dict[str, Any]:
    """A request's body; the server's own token count comes with the last chunk."""
    return {**members, "stream": True, "stream_options": {"include_usage": True}}


def exactly(output_tokens: int) -> dict[str, Any]:
    """vLLM's ignore_eos: without it the model decides the length, and two runs would not be comparable."""
    return {"max_tokens": output_tokens, "ignore_eos": True}
