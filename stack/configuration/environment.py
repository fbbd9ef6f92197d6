"""Settings come from environment variables; a value that cannot work becomes one line that names it.

Each part declares a pydantic-settings class; `load` reads it. An empty variable counts as unset, because that is
what `${NAME:-}` in compose.yaml passes on.
"""

import sys
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from stack.network.addresses import without_password, without_passwords

S = TypeVar("S", bound="Settings")


class ConfigError(ValueError):
    """One or more variables hold a value that cannot work; the text has one line for each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Settings(BaseSettings):
    """Base of every part's settings: field `transfer_timeout_s` is the variable `TRANSFER_TIMEOUT_S`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)


def load(settings: type[S], **overrides: object) -> S:
    """Read `settings` from the environment; `overrides` win over variables.

    Raises: ConfigError: with a line `NAME='value': what would be right` for every bad variable.
    """
    try:
        return settings(**overrides)
    except ValidationError as error:
        raise ConfigError([_line(dict(problem)) for problem in error.errors()]) from error


def load_or_exit(settings: type[S], **overrides: object) -> S:
    """`load` for a main program: prints the lines and exits with status 2 instead of raising."""
    try:
        return load(settings, **overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


def _line(problem: dict[str, object]) -> str:
    location = problem["loc"]
    name = "_".join(str(part) for part in location) if isinstance(location, tuple) else str(location)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:  # of the settings together: its input is all the variables, and its text names those that matter
        return message
    if problem["type"] == "missing":  # its input is all the other variables, secrets among them
        return f"{name.upper()} is unset and has no default"
    value = problem["input"]
    shown = without_password(value) if isinstance(value, str) else value
    return f"{name.upper()}={shown!r}: {without_passwords(message)}"
