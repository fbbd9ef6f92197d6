"""Reads `.env` the way compose does: the environment wins over the file, an absent file is fine.

A second implementation of compose-go's `dotenv` package, so that a file means the same in both ways of running; what
python-dotenv makes of quotes, `$`, `:` and a byte order mark is something else. tests/compose compares both on a table.
STACK_ENV_FILE names another file (the tests give /dev/null, so that a developer's own `.env` cannot change them).
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from stack.configuration.environment import ConfigError
from stack.configuration.interpolation import InterpolationError, interpolate
from stack.configuration.settings import REPOSITORY

# Go's idea of a space.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
BLANKS = "\t\v\f\r \x85\xa0"  # those that compose skips within a line
OF_NAMES = "_.-[]" + BLANKS.replace(" ", "")
EXPORT = re.compile(r"export[\t\n\f\r ]+")
ESCAPE = re.compile(r'\\(?:([abcfnrtv$"\\])|0([0-9]{0,3}))')
ESCAPED = {**dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)), "$": "$$", '"': '"', "\\": "\\", "c": "\\c"}
OCTAL_DIGITS = 3


class Entry(NamedTuple):
    """One assignment. `name` is None where the text is none at all, `value` where the name stands alone and is unset.

    `unset`: variables that the value names and nobody has set; `problem`: why compose would refuse the file.
    """

    line: int
    name: str | None
    text: str
    value: str | None = None
    unset: tuple[str, ...] = ()
    problem: str = ""

    @property
    def shown(self) -> str:
        """The name, as the value may be a secret; where there is no name, what stands in its place."""
        if self.name is not None:
            return self.name
        before, equals, _ = self.text.partition("=")
        return f"{before + equals + '...'!r}" if equals else "a line without ="


class _Unreadable(ValueError):
    """What would be right."""


def path() -> Path:
    return REPOSITORY / os.environ.get("STACK_ENV_FILE", ".env")


def known_names() -> frozenset[str]:
    """Every variable that `.env.example` shows, also those that it shows commented out."""
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, flags=re.MULTILINE))


def apply() -> None:
    """Put the file's variables into this process's environment, where they are not set yet; children inherit them.

    Raises: ConfigError: with a line for each part of the file that compose would refuse.
    """
    found = list(entries(path(), os.environ))
    if problems := [f"{path()}:{entry.line}: {entry.shown}: {entry.problem}" for entry in found if entry.problem]:
        raise ConfigError(problems)
    for name, value in {entry.name: entry.value for entry in found}.items():  # of two assignments the last one counts
        if name is not None and value is not None:
            os.environ.setdefault(name, value)


def apply_or_exit() -> None:
    """`apply` for a main program: prints the lines and exits with status 2 instead of raising."""
    try:
        apply()
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


def applied() -> tuple[Entry, ...]:
    """The file's entries as `apply` has read them, when the file's own variables were not in the environment yet."""
    names = {entry.name for entry in entries(path(), os.environ)}
    return tuple(entries(path(), {name: value for name, value in os.environ.items() if name not in names}))


def entries(file: Path, environment: Mapping[str, str]) -> Iterator[Entry]:
    """Assignments and unreadable lines of `file`; comments and blank lines are left out."""
    if file.exists():
        text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        yield from _Reader(text, environment).entries()


class _Reader:
    """Goes through the text once; what it has read is seen by later lines."""

    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self._text = text
        self._environment = environment
        self._values: dict[str, str] = {}
        self._unset: list[str] = []
        self._position = 0

    def entries(self) -> Iterator[Entry]:
        while self._begin():
            start = self._position
            line = self._text.count("\n", 0, start) + 1
            self._unset = []
            name = None
            try:
                name, alone = self._name()
                value = self._lookup(name) if alone else self._value()
                if "\0" in (value or ""):
                    raise _Unreadable("expected a value without a NUL byte")
            except (_Unreadable, InterpolationError) as error:
                self._position = self._end_of_line(start if name is None else max(self._position - 1, start))
                yield Entry(line, name, self._text[start : self._position].strip(), problem=str(error))
                continue
            if value is not None:
                self._values[name] = value
            yield Entry(line, name, self._text[start : self._position].strip(), value, tuple(self._unset))

    def _begin(self) -> bool:
        """Go to the next assignment. Returns: whether there is one."""
        while self._position < len(self._text):
            if self._text[self._position] == "#":
                self._position = self._end_of_line(self._position)
            elif self._text[self._position] in SPACES:
                self._position += 1
            else:
                return True
        return False

    def _end_of_line(self, start: int) -> int:
        end = self._text.find("\n", start)
        return len(self._text) if end == -1 else end

    def _name(self) -> tuple[str, bool]:
        """Returns: the name, and whether it stands alone on its line."""
        if found := EXPORT.match(self._text, self._position):
            self._position = found.end()
            self._skip_blanks()
        start = self._position
        end = next((end for end in range(start, len(self._text)) if self._text[end] in "=:\n"), len(self._text))
        name = self._text[start:end].rstrip(SPACES)
        if not name or not all(letter in OF_NAMES or letter.isalpha() or letter.isnumeric() for letter in name):
            raise _Unreadable("expected NAME=value")
        self._position = end + 1
        self._skip_blanks()
        return name, self._text[end : end + 1] in ("\n", "")

    def _skip_blanks(self) -> None:
        while self._position < len(self._text) and self._text[self._position] in BLANKS:
            self._position += 1

    def _value(self) -> str:
        start = self._position
        quote = self._text[start : start + 1]
        if quote in ("'", '"'):
            inside = self._quoted(quote)
            return inside if quote == "'" else self._interpolated(ESCAPE.sub(_unescaped, inside))
        end = self._end_of_line(start)
        self._position = end + 1
        return self._interpolated(self._text[start:end].partition(" #")[0].rstrip(SPACES))

    def _quoted(self, quote: str) -> str:
        """What is between two quotes, over several lines where it is; a backslash keeps a quote from being the last."""
        inside = re.compile(rf"{quote}((?:\\.|[^\\{quote}])*){quote}", re.DOTALL).match(self._text, self._position)
        if inside is None:
            raise _Unreadable(f"expected another {quote} at the end of the value")
        self._position = inside.end()
        return inside[1].replace(f"\\{quote}", quote)

    def _interpolated(self, value: str) -> str:
        return interpolate(value, self._lookup, self._unset.append)

    def _lookup(self, name: str) -> str | None:
        return self._environment.get(name, self._values.get(name))


def _unescaped(escape: "re.Match[str]") -> str:
    if escape[1]:
        return ESCAPED[escape[1]]
    digits = escape[2]
    is_byte = len(digits) == OCTAL_DIGITS and set(digits) <= set("01234567") and int(digits, 8) < 256
    return chr(int(digits, 8)) if is_byte else f"\\{digits}"
