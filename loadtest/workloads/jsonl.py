"""Files of one JSON object a line, each checked against a model; a bad line is named by its number."""

import codecs
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from stack.configuration.environment import ConfigError

Line = TypeVar("Line", bound=BaseModel)

_MOST_PROBLEMS = 5  # of a file in another format every line is bad
_OTHER_ENCODINGS = (  # by the mark with which editors begin such a file; that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read(path: Path, model: type[Line], setting: str) -> list[Line]:
    """The file's lines, empty ones left out; UTF-8, with a byte order mark or without.

    Raises: ConfigError: `setting` names a file that cannot be read, holds no line, or holds bad ones.
    """
    name = f"{setting}={str(path)!r}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{name}: {error.strerror}"]) from error
    if encoding := next((found for mark, found in _OTHER_ENCODINGS if content.startswith(mark)), None):
        raise ConfigError([f"{name}: found {encoding}; expected UTF-8"])
    texts = content.removeprefix(codecs.BOM_UTF8).splitlines()
    lines: list[Line] = []
    problems: list[str] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            lines.append(model.model_validate_json(text))
        except ValidationError as error:
            problem = error.errors()[0]
            member = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{name}, line {number}: {f'{member}: ' if member else ''}{message}")
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"{name}: {len(problems) - _MOST_PROBLEMS} more lines like these"]
    if problems:
        raise ConfigError(problems)
    if not lines:
        raise ConfigError([f"{name}: holds no line"])
    return lines
