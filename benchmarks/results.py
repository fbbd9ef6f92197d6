"""The raw results of a run, written anew after every step: one JSON file, and a page made from it.

The JSON holds every single value; each measured request is one line of the file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import Row


class Results:
    """`about` is what is known before the first request: command, machine, versions, flags.

    `render` makes the page of the whole document and the name of the raw file.
    """

    def __init__(
        self, folder: Path, name: str, about: dict[str, Any], render: Callable[[dict[str, Any], str], str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.json_file = folder / f"{name}.json"
        self.page_file = folder / f"{name}.md"
        self._document: dict[str, Any] = {**about, "ended": "not yet"}
        self._tables: dict[str, list[Row]] = {}
        self._render = render

    def add(self, table: str, **row: Any) -> None:
        self._tables.setdefault(table, []).append({key: _rounded(value) for key, value in row.items()})

    def end(self, how: str) -> None:
        """Writes nothing when nothing was measured."""
        self._document["ended"] = how
        if self._tables:
            self.write()

    def write(self) -> None:
        document = {**self._document, **self._tables}
        replace(self.json_file, dump(document))
        replace(self.page_file, self._render(document, self.json_file.name))


def dump(document: dict[str, Any]) -> str:
    """JSON with one line for each row of a table, so that a file can be read and compared by people too."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(value: Any) -> Any:
    """To 10 µs: more digits are noise, and half of the file."""
    match value:
        case float():
            return round(value, 5)
        case list():
            return [_rounded(item) for item in value]
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
    return value


def replace(file: Path, text: str) -> None:
    """A run that is killed leaves the last whole version."""
    new = file.with_suffix(file.suffix + ".new")
    new.write_text(text)
    new.replace(file)
