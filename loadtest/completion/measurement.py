"""What one streamed completion took, from the arrival times of its events. No clock, no network: times are given.

TTFT        scheduled start to the first chunk with content (text, chat content, reasoning or a tool call)
ITL         gaps between chunks with content, one value for each gap
TPOT        (finish - first content) / (output tokens - 1); finish is the chunk with the finish_reason, and the token
            count is the server's own (`stream_options.include_usage`), because a chunk can hold several tokens
end to end  scheduled start to [DONE]

Times count from the scheduled start: with users who wait for their answers it is the actual start; an open-loop
schedule does not wait, and counting from the actual start would hide the queue in front of a slow server.
"""

import json
from itertools import pairwise
from typing import Any

from loadtest.completion.sse import Event
from loadtest.errors import ErrorInStream, StreamCutOff, UnexpectedAnswer, openai_message

_DECODE = json.JSONDecoder().raw_decode  # half the time of json.loads for a chunk of one token


class StreamObserver:
    """Collects one stream: `receive` every event in order, then `check_whole`; times are of the caller's clock.

    content_at: arrival of every chunk with content; empty when the first token ended the answer.
    """

    def __init__(self) -> None:
        self.content_at: list[float] = []
        self.finished_at: float | None = None
        self.finish_reason: str | None = None
        self.done_at: float | None = None
        self.received_bytes = 0
        self._usage: dict[str, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """What is known so far, by the names of RequestRecord."""
        details = self._usage.get("prompt_tokens_details")
        return {
            "first_content": self.content_at[0] if self.content_at else None,
            "itl": tuple(later - earlier for earlier, later in pairwise(self.content_at)),
            "finished": self.finished_at,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self._usage.get("prompt_tokens"),
            "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None,
            "output_tokens": self._usage.get("completion_tokens"),
        }

    def receive(self, arrived_at: float, event: Event) -> None:
        """Raises: ErrorInStream, UnexpectedAnswer."""
        self.received_bytes += len(event.data)
        data = event.data.strip()  # some servers pad it, and the decoder takes no blank before a value
        if data == "[DONE]":
            self.done_at = arrived_at
            return
        try:
            chunk, end = _DECODE(data)
            if data[end:]:
                raise ValueError("more than one JSON value")
            # Some servers put `"error": null` into every chunk; OpenAI's own client looks whether it is true, too.
            if event.type == "error" or chunk.get("error"):
                raise ErrorInStream(openai_message(event.data))
            self._usage = chunk.get("usage") or self._usage
            # The chunk with the usage has an empty list with OpenAI, null or none at all with others.
            choices = chunk.get("choices") if "usage" in chunk else chunk["choices"]
            for choice in choices or ():
                self._receive_choice(arrived_at, choice)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedAnswer(f"no completion chunk: {event.data[:100]}") from error

    def check_whole(self) -> None:
        """Raises: StreamCutOff: the answer is not whole."""
        if self.finished_at is None:
            raise StreamCutOff("ended before a finish_reason")
        if self.done_at is None:
            raise StreamCutOff("ended between finish_reason and [DONE]")

    def _receive_choice(self, arrived_at: float, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if (
            choice.get("text")
            or delta.get("content")
            or delta.get("reasoning_content")
            or delta.get("reasoning")
            or delta.get("tool_calls")
        ):
            self.content_at.append(arrived_at)
        if reason := choice.get("finish_reason"):
            if reason in ("abort", "error"):  # vLLM's reasons for an answer that it gave up
                raise ErrorInStream(f"finish_reason {reason}")
            self.finished_at, self.finish_reason = arrived_at, reason
