"""The requests of a run as columns: what millions of records need to be summed up in bounded memory.

About 150 bytes a request and 4 a gap (single precision: 7 digits). Records may come from an iterator, and are not kept.
"""

from __future__ import annotations

import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo, worst_gaps

Floats = NDArray[np.float64]

_NUMBERS = (
    *("scheduled", "started", "ended", "first_content", "finished", "ttft", "tpot", "end_to_end", "start_delay"),
    *("prompt_tokens", "cached_tokens", "output_tokens", "wanted_input_tokens", "wanted_output_tokens"),
    "second_token",
)
_PIECE = 10_000  # requests
_NAMES = ("outcome", "error", "path", "transport", "first_token")


@dataclass(frozen=True)
class Columns:
    """numbers: by name of the record's field or property, NaN for None. names: a text of each request, or "".

    good: whether the request met the SLO. gaps: all gaps, request after request; gap_counts: how many each has.
    phases: of each phase the seconds of every request, NaN where the server told nothing.
    """

    numbers: dict[str, Floats]
    names: dict[str, NDArray[np.object_]]
    good: NDArray[np.bool_]
    worst_gaps: Floats
    gaps: NDArray[np.float32]
    gap_counts: NDArray[np.int64]
    phases: dict[str, Floats]

    @classmethod
    def of(cls, records: Iterable[RequestRecord], slo: Slo) -> Columns:
        numbers = {name: array("d") for name in _NUMBERS}
        names: dict[str, list[str]] = {name: [] for name in _NAMES}
        phases: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        good, worst, gaps, gap_counts = array("b"), array("d"), array("f"), array("q")
        for position, record in enumerate(records):
            for name, column in numbers.items():
                value = getattr(record, name)
                column.append(np.nan if value is None else value)
            for name, texts in names.items():
                texts.append(sys.intern(getattr(record, name) or ""))  # one text for all that are alike
            for name, seconds in record.phases.items():
                phases[name].append((position, seconds))
            mean = worst_gaps(record.itl)
            worst.append(np.nan if mean is None else mean)
            good.append(slo.met_by(record))
            gaps.extend(record.itl)
            gap_counts.append(len(record.itl))
        return cls(
            numbers={name: np.array(column) for name, column in numbers.items()},
            names={name: np.array(texts, dtype=object) for name, texts in names.items()},
            good=np.array(good, dtype=bool),
            worst_gaps=np.array(worst),
            gaps=np.array(gaps),
            gap_counts=np.array(gap_counts),
            phases={name: _spread(len(good), points) for name, points in phases.items()},
        )

    def __len__(self) -> int:
        return len(self.good)

    def __getitem__(self, name: str) -> Floats:
        return self.numbers[name]

    def where(self, wanted: NDArray[np.bool_]) -> Columns:
        """The requests for which `wanted` holds."""
        if wanted.all():
            return self

        def pick(columns: dict[str, Any]) -> dict[str, Any]:
            return {name: column[wanted] for name, column in columns.items()}

        return Columns(
            numbers=pick(self.numbers),
            names=pick(self.names),
            good=self.good[wanted],
            worst_gaps=self.worst_gaps[wanted],
            gaps=self.gaps[np.repeat(wanted, self.gap_counts)],
            gap_counts=self.gap_counts[wanted],
            phases=pick(self.phases),
        )

    def without_gaps(self) -> Columns:
        return replace(self, gaps=self.gaps[:0], gap_counts=np.zeros_like(self.gap_counts))

    def gap_arrivals(self) -> Iterator[Floats]:
        """When each gap ended, that is when its chunk arrived; in pieces, as all in double precision would be large."""
        for requests, gaps in self._pieces():
            sums, counts = np.cumsum(self.gaps[gaps], dtype=np.float64), self.gap_counts[requests]
            before = np.concatenate(([0.0], sums))[np.cumsum(counts) - counts]
            yield np.repeat(self["first_content"][requests] - before, counts) + sums

    def token_arrivals(self) -> Iterator[tuple[Floats, Floats]]:
        """When chunks with content arrived, and how many tokens each held; in pieces.

        An answer's tokens are spread evenly over its chunks; one a chunk where the server did not count them.
        """
        chunks = np.where(np.isnan(self["first_content"]), 0, self.gap_counts + 1)
        tokens = np.where(np.isnan(self["output_tokens"]), 1.0, self["output_tokens"] / np.maximum(chunks, 1))
        yield self["first_content"][chunks > 0], tokens[chunks > 0]
        for (requests, _), moments in zip(self._pieces(), self.gap_arrivals(), strict=True):
            yield moments, np.repeat(tokens[requests], self.gap_counts[requests])

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Some requests and their gaps."""
        ends = np.concatenate(([0], np.cumsum(self.gap_counts)))
        for first in range(0, len(self), _PIECE):
            last = min(first + _PIECE, len(self))
            yield slice(first, last), slice(int(ends[first]), int(ends[last]))

    def outcome(self, name: str) -> NDArray[np.bool_]:
        return np.asarray(self.names["outcome"] == name, dtype=bool)


def _spread(length: int, points: list[tuple[int, float]]) -> Floats:
    column = np.full(length, np.nan)
    positions, values = zip(*points, strict=True)
    column[list(positions)] = values
    return column
