"""requests.jsonl: a line of JSON for each request of a run, written as its record comes.

Gaps are rounded to microseconds, and what has its default value is left out. Every line is handed to the operating
system at once, so that a killed run has lost no request that had ended; it may leave half a line behind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loadtest.figures.record import RequestRecord

NAME = "requests.jsonl"
_RECORD: TypeAdapter[RequestRecord] = TypeAdapter(RequestRecord)


class RequestsFile:
    """Open for appending, by one process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def append(self, records: Sequence[RequestRecord]) -> None:
        self._file.write(b"".join(map(_line, records)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class SavedRequests:
    """The records of a file, read anew by every iteration. damaged: numbers of the lines that the last one left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[int] = []

    def __iter__(self) -> Iterator[RequestRecord]:
        self.damaged = []
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield _RECORD.validate_json(line)
                except ValidationError:
                    self.damaged.append(number)

    def damage(self) -> str | None:
        if not self.damaged:
            return None
        numbers = ", ".join(map(str, self.damaged[:5])) + (", …" if len(self.damaged) > 5 else "")
        return f"{len(self.damaged)} of the lines of {self.path.name} are no records and were left out: {numbers}"


def _line(record: RequestRecord) -> bytes:
    rounded = replace(record, itl=tuple(round(gap, 6) for gap in record.itl))
    return _RECORD.dump_json(rounded, exclude_defaults=True) + b"\n"
