"""Variables inside values as compose replaces them: $NAME, ${NAME}, ${NAME:-default} and its kin; $$ is a dollar sign.

A second implementation of compose-go's `template` package, because no Python library has its rules: they are neither
python-dotenv's nor a shell's. tests/compose compares both on a table of values.
"""

import re
from collections.abc import Callable

# The text of a variable, None where it is unset.
Lookup = Callable[[str], str | None]

NAME = "[_a-zA-Z][_a-zA-Z0-9]*"
# The braces of the second reach to the line's last one; which of them closes the variable is counted afterwards.
VARIABLE = re.compile(
    rf"\$(?:(?P<dollar>\$)|(?P<name>{NAME})|\{{(?:(?P<braced>{NAME}(?::?[-+?].*)?)\}}|(?P<invalid>)))"
)
BRACED = re.compile(rf"(?P<name>{NAME})(?:(?P<empty_too>:?)(?P<operator>[-+?])(?P<word>.*))?")

WHAT_IS_RIGHT = "expected ${NAME}, or $$ for a dollar sign"


class InterpolationError(ValueError):
    """The value cannot be computed; the text says what would be right."""


def interpolate(text: str, lookup: Lookup, blank: Callable[[str], None]) -> str:
    """Args: blank: told of each variable that is unset and has no default, which becomes nothing.

    Raises: InterpolationError: `${` without a name, or a ${NAME:?message} that is unset.
    """
    return VARIABLE.sub(lambda found: _replacement(found, lookup, blank), text)


def _replacement(found: "re.Match[str]", lookup: Lookup, blank: Callable[[str], None]) -> str:
    if found["dollar"]:
        return "$"
    if found["invalid"] is not None:
        raise InterpolationError(WHAT_IS_RIGHT)
    inside, rest = (found["name"], "") if found["name"] else _split(found["braced"])
    parts = BRACED.fullmatch(inside)
    if parts is None:
        raise InterpolationError(WHAT_IS_RIGHT)
    return _value(parts, lookup, blank) + interpolate(rest, lookup, blank)


def _split(braced: str) -> tuple[str, str]:
    """What is inside of a variable's braces and what comes after them; `braced` has neither the first nor the last."""
    depth, position = 1, 1
    while position < len(braced):
        if braced[position] == "}":
            depth -= 1
            if depth == 0:
                return braced[:position], braced[position + 1 :] + "}"
        elif braced[position] == "{":
            depth += 1
            position += 1
        position += 1
    return braced, ""


def _value(parts: "re.Match[str]", lookup: Lookup, blank: Callable[[str], None]) -> str:
    value = lookup(parts["name"])
    is_there = value is not None and not (parts["empty_too"] and value == "")
    match parts["operator"]:
        case "-" if not is_there:
            return interpolate(parts["word"], lookup, blank)
        case "+" if is_there:
            return interpolate(parts["word"], lookup, blank)
        case "?" if not is_there:
            why = interpolate(parts["word"], lookup, blank)
            raise InterpolationError(f"expected {parts['name']} to be set{f': {why}' if why else ''}")
        case None if value is None:
            blank(parts["name"])
    return value or ""
