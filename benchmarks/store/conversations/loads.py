"""What is sent: chats of several turns, from users who wait for their answers, or a piece of a trace at its own times.

Each sends the same requests to every side, and a fixed number of them: so the sides' prompt tokens can be compared.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.store.conversations.trace_piece import Piece, found_again
from loadtest.figures.record import RequestRecord

CHAT, TRACE = "chat", "trace"
TRACE_FILE = "trace.jsonl"


class Load(Protocol):
    """A fixed number of requests, and how the load test is told to make them."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, str]:
        """Of requests: those that have nothing to find, and the others."""

    @property
    def requests(self) -> int: ...

    @property
    def seconds(self) -> float:
        """That it may take."""

    @property
    def options(self) -> Sequence[str]:
        """Of the load test's command line."""

    def settings(self, folder: Path) -> dict[str, str]:
        """Of the load test; its files are written to `folder`."""

    def is_later(self, index: int) -> bool:
        """Whether a request has something to find: whether it is of the second kind."""

    def found_again(self, records: Sequence[RequestRecord]) -> int:
        """Tokens of these prompts that an earlier one began with: more can be found in no cache."""

    def conditions(self) -> dict[str, Any]:
        """All that its requests depend on, beside the seed."""

    def describe(self) -> str: ...


@dataclass(frozen=True)
class Chats:
    """`input_tokens` are what each turn adds to its chat's prompt. `limit_s`: no request is begun later."""

    sessions: int
    turns: int
    input_tokens: int
    output_tokens: int
    users: int
    limit_s: float
    name: str = CHAT
    kinds: tuple[str, str] = ("first turns", "later turns")

    @property
    def requests(self) -> int:
        return self.sessions * self.turns

    @property
    def seconds(self) -> float:
        return self.limit_s

    @property
    def options(self) -> Sequence[str]:
        return ("--users", str(self.users), "--spawn-rate", str(self.users))

    def settings(self, folder: Path) -> dict[str, str]:
        return {
            "LOADTEST_WORKLOAD": "chat",
            "LOADTEST_ARRIVALS": "closed",
            "LOADTEST_REQUESTS": str(self.requests),
            "LOADTEST_CHAT_SESSIONS": str(self.sessions),
            "LOADTEST_CHAT_TURNS": str(self.turns),
            "LOADTEST_INPUT_TOKENS": str(self.input_tokens),
            "LOADTEST_OUTPUT_TOKENS": str(self.output_tokens),
        }

    def is_later(self, index: int) -> bool:
        return index >= self.sessions  # the first turn of all chats comes first

    def found_again(self, records: Sequence[RequestRecord]) -> int:
        tokens = {record.index: record.prompt_tokens or 0 for record in records}
        return sum(tokens.get(index - self.sessions, 0) for index in tokens if self.is_later(index))

    def conditions(self) -> dict[str, Any]:
        return {
            **{"load": self.name, "sessions": self.sessions, "turns": self.turns, "input": self.input_tokens},
            **{"output": self.output_tokens, "users": self.users, "limit_s": self.limit_s},
        }

    @property
    def held_tokens(self) -> int:
        """Of all chats at their ends."""
        return self.sessions * self.turns * (self.input_tokens + self.output_tokens)

    def describe(self) -> str:
        return (
            f"{self.sessions} chats of {self.turns} turns, all first turns first; each adds {self.input_tokens} tokens "
            f"and is answered with {self.output_tokens}; {self.users} users who wait for their answers. At their ends "
            f"the chats are about {self.held_tokens:,} tokens"
        )


@dataclass(frozen=True)
class TracePiece:
    """`file` is the trace's name; `rate`: requests a second in the mean."""

    piece: Piece
    file: str
    rate: float
    length_scale: float
    name: str = TRACE
    kinds: tuple[str, str] = ("new prompts", "prompts that go on")

    @property
    def requests(self) -> int:
        return len(self.piece.lines)

    @property
    def time_scale(self) -> float:
        span_s = self.piece.span_s
        return self.requests / self.rate / span_s if span_s else 1.0

    @property
    def seconds(self) -> float:
        return math.ceil(self.piece.span_s * self.time_scale) + 2.0  # the last is to be begun too

    @property
    def options(self) -> Sequence[str]:
        return ()

    def settings(self, folder: Path) -> dict[str, str]:
        file = folder / TRACE_FILE
        file.write_text(self.piece.text())
        return {
            "LOADTEST_WORKLOAD": "trace",
            "LOADTEST_ARRIVALS": "trace",
            "LOADTEST_TRACE_FILE": str(file),
            "LOADTEST_TRACE_LENGTH_SCALE": f"{self.length_scale:g}",
            "LOADTEST_TRACE_TIME_SCALE": f"{self.time_scale:.9g}",
        }

    def is_later(self, index: int) -> bool:
        return self.piece.is_later(index)

    def found_again(self, records: Sequence[RequestRecord]) -> int:
        return sum(found_again(self.piece, record.index, self.length_scale) for record in records)

    def conditions(self) -> dict[str, Any]:
        text = hashlib.sha256(self.piece.text().encode()).hexdigest()
        return {"load": self.name, "lines": text, "rate": self.rate, "length_scale": self.length_scale}

    def describe(self) -> str:
        left_out = f"; {self.piece.left_out} lines do not fit into the model's context" if self.piece.left_out else ""
        return (
            f"{self.requests} requests of whole conversations of {self.file}, lengths times {self.length_scale:g}, "
            f"{self.rate:g} a second in the mean (its times multiplied by {self.time_scale:.4g}){left_out}"
        )
