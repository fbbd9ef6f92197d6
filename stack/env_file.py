"""Reads `.env` the way compose does: the environment wins over the file, an absent file is fine.

STACK_ENV_FILE names another file (the tests give /dev/null, so that a developer's own `.env` cannot change them).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from stack.settings import REPOSITORY


class Entry(NamedTuple):
    """One line of the file. `name` is None where the line is no assignment at all."""

    line: int
    name: str | None
    text: str


def path() -> Path:
    return REPOSITORY / os.environ.get("STACK_ENV_FILE", ".env")


def known_names() -> frozenset[str]:
    """Every variable that `.env.example` shows, also those that it shows commented out."""
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, flags=re.MULTILINE))


def entries(file: Path) -> Iterator[Entry]:
    """Assignments and unreadable lines of `file`; comments and blank lines are left out."""
    if not file.exists():
        return
    with file.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            text = binding.original.string
            line = binding.original.line + len(text) - len(text.lstrip("\n"))  # blank lines come with the next one
            if binding.error:
                yield Entry(line, None, text.strip())
            elif binding.key is not None:
                yield Entry(line, binding.key, text.strip())


def apply() -> None:
    """Put the file's variables into this process's environment, where they are not set yet; children inherit them."""
    for name, value in dotenv_values(path()).items():
        if value is not None:
            os.environ.setdefault(name, value)
