"""The id under which a request is found again: in its answer, in the logs, and at the instances."""

from proxy.request.random_id import random_id

MAX_CHARACTERS = 128


def taken_or_made(given: str) -> str:
    """The client's own, unless that could not be a part of log lines and of vLLM's request ids."""
    return given if fits(given) else random_id()


def fits(given: str) -> bool:
    """Also whether it can be in a header."""
    return given.isascii() and given.isprintable() and 0 < len(given) <= MAX_CHARACTERS
