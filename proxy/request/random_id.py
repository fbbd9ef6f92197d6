"""Ids that nobody can guess and that are never given out twice."""

import os

BYTES = 16
AT_ONCE = 256  # to ask the kernel for each costs more than all else that an id does

_drawn: list[str] = []


def random_id() -> str:
    """32 hexadecimal digits."""
    if not _drawn:
        digits = os.urandom(BYTES * AT_ONCE).hex()
        _drawn.extend(digits[at : at + 2 * BYTES] for at in range(0, len(digits), 2 * BYTES))
    return _drawn.pop()
