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
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtest.errors import ErrorInStream, StreamCutOff, UnexpectedAnswer, openai_message
from loadtest.sse import Event


@dataclass(frozen=True, slots=True)
class Measurement:
    """One completed stream; times in seconds of one monotonic clock."""

    scheduled_at: float
    started_at: float
    content_at: tuple[float, ...]  # arrival of every chunk with content; empty when the first token ended the answer
    finished_at: float
    ended_at: float
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    received_bytes: int

    @property
    def ttft(self) -> float | None:
        return self.content_at[0] - self.scheduled_at if self.content_at else None

    @property
    def itl(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.content_at)]

    @property
    def tpot(self) -> float | None:
        if not self.content_at or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.finished_at - self.content_at[0]) / (self.output_tokens - 1)

    @property
    def end_to_end(self) -> float:
        return self.ended_at - self.scheduled_at


class StreamObserver:
    """Collects one stream: `receive` every event in order, then `finish`."""

    def __init__(self, scheduled_at: float, started_at: float) -> None:
        self._scheduled_at = scheduled_at
        self._started_at = started_at
        self._content_at: list[float] = []
        self._finish: tuple[float, str] | None = None
        self._done_at: float | None = None
        self._usage: dict[str, Any] = {}
        self._received_bytes = 0

    def receive(self, arrived_at: float, event: Event) -> None:
        """Raises: ErrorInStream, UnexpectedAnswer."""
        self._received_bytes += len(event.data)
        if event.data == "[DONE]":
            self._done_at = arrived_at
            return
        try:
            chunk = json.loads(event.data)
            if event.type == "error" or "error" in chunk:
                raise ErrorInStream(openai_message(event.data))
            self._usage = chunk.get("usage") or self._usage
            for choice in chunk["choices"]:
                self._receive_choice(arrived_at, choice)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedAnswer(f"no completion chunk: {event.data[:100]}") from error

    def finish(self) -> Measurement:
        """Raises: StreamCutOff: the answer is not whole."""
        if self._finish is None:
            raise StreamCutOff("ended before a finish_reason")
        if self._done_at is None:
            raise StreamCutOff("ended between finish_reason and [DONE]")
        finished_at, finish_reason = self._finish
        return Measurement(
            scheduled_at=self._scheduled_at,
            started_at=self._started_at,
            content_at=tuple(self._content_at),
            finished_at=finished_at,
            ended_at=self._done_at,
            finish_reason=finish_reason,
            prompt_tokens=self._usage.get("prompt_tokens"),
            output_tokens=self._usage.get("completion_tokens"),
            received_bytes=self._received_bytes,
        )

    def _receive_choice(self, arrived_at: float, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if (
            choice.get("text")
            or delta.get("content")
            or delta.get("reasoning_content")
            or delta.get("reasoning")
            or delta.get("tool_calls")
        ):
            self._content_at.append(arrived_at)
        if reason := choice.get("finish_reason"):
            if reason in ("abort", "error"):  # vLLM's reasons for an answer that it gave up
                raise ErrorInStream(f"finish_reason {reason}")
            self._finish = (arrived_at, reason)
