"""A trace in Mooncake's format: one JSON object a line, with `timestamp` (ms), lengths in tokens, and `hash_ids`.

Each hash id stands for TRACE_BLOCK tokens and all that precede them; equal ids are a prefix that can be shared.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from proxy.request.prompt import MAX_BLOCKS, Block, Prompt

TRACE_BLOCK = 512
# As large as a block of token ids is for the proxy.
BLOCK_TOKENS = 128


@dataclass(frozen=True)
class Arrival:
    """output_limit: what its client says of the answer's length (`max_tokens`), None: nothing."""

    at_s: float
    prompt: Prompt
    output_tokens: int
    output_limit: int | None = None


class UnreadableTrace(Exception):
    """The text names the file, the line and what is wrong with it."""


def read_trace(file: Path, limit: int | None = None) -> list[Arrival]:
    """The first `limit` requests, None: all. Raises: UnreadableTrace."""
    rows: list[Arrival] = []
    try:
        with file.open() as lines:
            for number, line in enumerate(lines, 1):
                if limit is not None and len(rows) == limit:
                    break
                try:
                    rows.append(arrival_of(json.loads(line)))
                except (ValueError, KeyError, TypeError) as error:
                    raise UnreadableTrace(
                        f"{file}:{number}: expected a line of Mooncake's format: {error!r}"
                    ) from error
    except OSError as error:
        raise UnreadableTrace(f"--trace={str(file)!r}: expected a file that can be read: {error.strerror}") from error
    return list(_spread(rows))


def arrival_of(line: Any) -> Arrival:
    """Of one line's object. Raises: KeyError, TypeError."""
    return Arrival(line["timestamp"] / 1000, prompt_of(line["input_length"], line["hash_ids"]), line["output_length"])


def prompt_of(tokens: int, hash_ids: Sequence[int]) -> Prompt:
    whole = min(tokens // BLOCK_TOKENS, len(hash_ids) * TRACE_BLOCK // BLOCK_TOKENS, MAX_BLOCKS)
    return Prompt(tokens, tuple(_blocks(hash_ids, whole)), float(BLOCK_TOKENS))


def _blocks(hash_ids: Sequence[int], count: int) -> Iterator[Block]:
    a_trace_block = TRACE_BLOCK // BLOCK_TOKENS
    for number in range(count):
        yield (hash_ids[number // a_trace_block] * a_trace_block + number % a_trace_block).to_bytes(8, "big")


def _spread(arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
    """Clocks of traces tick every few seconds: the requests of one tick are spread evenly until the next."""
    ticks = [(at_s, list(rows)) for at_s, rows in groupby(arrivals, key=lambda arrival: arrival.at_s)]
    following = [at_s for at_s, _ in ticks[1:]] + [ticks[-1][0] + 1.0] if ticks else []
    for (at_s, rows), end_s in zip(ticks, following, strict=True):
        for number, row in enumerate(rows):
            yield Arrival(at_s + (end_s - at_s) * number / len(rows), row.prompt, row.output_tokens)
