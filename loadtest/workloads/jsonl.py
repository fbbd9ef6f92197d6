"""Files of one JSON object a line, each checked against a model; a bad line is named by its number."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from stack.environment import ConfigError

Line = TypeVar("Line", bound=BaseModel)

_MOST_PROBLEMS = 5  # of a file in another format every line is bad


def read(path: Path, model: type[Line], setting: str) -> list[Line]:
    """The file's lines, empty ones left out.

    Raises: ConfigError: `setting` names a file that cannot be read, holds no line, or holds bad ones.
    """
    name = f"{setting}={str(path)!r}"
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError([f"{name}: {error.strerror}"]) from error
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
