"""Which saves may begin, so that a store that takes nothing keeps a bounded part of the cache."""

from collections.abc import Iterable, Sequence


def affordable(saves: Sequence[Iterable[int]], waiting: Iterable[int], limit: float) -> list[bool]:
    """Of each save in turn, whether blocks of other requests that wait to be saved are `limit` at most.

    `saves`: all blocks of each save's request, since a save keeps them all: at most `limit` of them and one request's
    wait then. Without its own a prompt's last chunks would be refused for what its first ones keep.
    """
    kept = set(waiting)
    found = []
    for blocks in saves:
        own = set(blocks)
        fits = len(kept - own) <= limit
        if fits:
            kept |= own
        found.append(fits)
    return found
