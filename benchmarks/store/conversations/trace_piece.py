"""A piece of a trace in Mooncake's format that a small stack can bear, with as much to be found again as the whole has.

Lines next to each other are of different conversations, whose next turns come minutes later. So the piece is every nth
conversation of the whole trace, not its beginning. A prompt that begins with more blocks of an earlier one than all
prompts share is of that one's conversation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.workloads.trace import BLOCK_TOKENS, TraceLine


@dataclass(frozen=True)
class Piece:
    """`lines` ascend by time. `begun`: of each, how many of its blocks an earlier one of the piece begins with.

    shared: blocks with which all begin. left_out: lines of the trace that are longer than the model's context.
    """

    lines: tuple[TraceLine, ...]
    begun: tuple[int, ...]
    shared: int
    left_out: int

    def is_later(self, index: int) -> bool:
        """Whether the line goes on where an earlier one was."""
        return self.begun[index] > self.shared

    @property
    def span_s(self) -> float:
        """In the trace's own time."""
        return (self.lines[-1].timestamp - self.lines[0].timestamp) / 1000

    def text(self) -> str:
        return "".join(f"{line.model_dump_json()}\n" for line in self.lines)


def take(lines: Sequence[TraceLine], requests: int, length_scale: float, context: int) -> Piece:
    """About so many `requests`; `context`: tokens that a prompt and its answer may have together, after scaling.

    Raises: ValueError: no line fits.
    """
    ascending = sorted(lines, key=lambda line: line.timestamp)
    fitting = [line for line in ascending if _scaled(line, length_scale) <= context]
    if not fitting:
        raise ValueError(f"expected a length scale with which a line has at most {context} tokens, its answer included")
    shared = min(_alike(fitting[0].hash_ids, line.hash_ids) for line in fitting)
    every = max(1, round(len(fitting) / requests))
    numbers = _conversations(fitting, shared)
    kept = tuple(line for line, number in zip(fitting, numbers, strict=True) if number % every == 0)
    return Piece(kept, tuple(_begun(kept)), shared, len(lines) - len(fitting))


def _scaled(line: TraceLine, scale: float) -> int:
    return math.ceil(line.input_length * scale) + math.ceil(line.output_length * scale)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next(
        (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
    )


def _conversations(lines: Sequence[TraceLine], shared: int) -> Iterator[int]:
    """Which conversation each line is of, by the order of their first lines."""
    of: dict[int, int] = {}  # an id stands for its block and all before it
    count = 0
    for line in lines:
        own = line.hash_ids[shared:]
        known = [id_ for id_ in own if id_ in of]
        number = of[known[-1]] if known else count
        count += not known
        for id_ in own:
            of.setdefault(id_, number)
        yield number


def _begun(lines: Sequence[TraceLine]) -> Iterator[int]:
    seen: set[int] = set()
    for line in lines:
        yield next((number for number, id_ in enumerate(line.hash_ids) if id_ not in seen), len(line.hash_ids))
        seen.update(line.hash_ids)


def found_again(piece: Piece, index: int, length_scale: float) -> int:
    """Tokens of a prompt, after scaling, that an earlier one of the piece began with."""
    line = piece.lines[index]
    return round(min(piece.begun[index] * BLOCK_TOKENS, line.input_length) * length_scale)
