"""Batches of Mooncake's client in parts that its TCP transport takes.

It queues 1,024 transfers to a peer and lets as many wait for 1 s. Of a larger batch some are refused, and then the
whole load fails: 8,000 tokens of a model with 30 layers, after that second and every time.
"""

from collections.abc import Callable, Iterator, Sequence

TRANSFERS = 1024
TRANSFER_BYTES = 64 << 10  # Mooncake's own; it may be told larger ones


def in_parts(call: Callable[[slice], Sequence[int]], sizes: Sequence[Sequence[int]]) -> list[int]:
    """What `call` says of each key, one part after the other.

    `sizes`: of each key's buffers, in bytes. After a part in which one has failed nothing more is asked for: the
    others are as that one, because a peer that hangs would be waited for again with each part.
    """
    found: list[int] = []
    for part in _parts(sizes):
        results = call(part)
        found += results
        if failures := [result for result in results if result < 0]:
            found += failures[:1] * (len(sizes) - part.stop)
            break
    return found


def _parts(sizes: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Each of one key at least."""
    begin, queued = 0, 0
    for index, of_key in enumerate(sizes):
        transfers = sum(max(1, -(-size // TRANSFER_BYTES)) for size in of_key)
        if index > begin and queued + transfers > TRANSFERS:
            yield slice(begin, index)
            begin, queued = index, 0
        queued += transfers
    if sizes:
        yield slice(begin, len(sizes))
