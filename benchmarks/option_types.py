"""Values of command-line options that several benchmarks have: words and numbers with commas, lists as tuples."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any


class Tuple(argparse.Action):
    """Of an option or argument with `nargs`."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def one_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def convert(text: str) -> tuple[str, ...]:
        found = words(text)
        if not found or not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(known)}")
        return found

    return convert


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 or more")
    return number


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return number


def counts(text: str) -> tuple[int, ...]:
    return tuple(count(word) for word in words(text))


def variables(assignments: Sequence[str]) -> dict[str, str]:
    return dict(assignment.split("=", 1) for assignment in assignments)
