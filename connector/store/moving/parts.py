"""Batches of Mooncake's client in parts that its TCP transport takes.

It queues 1,024 transfers to a peer and lets as many wait for 1 s. Of a larger batch some are refused, and then the
whole load fails: 8,000 tokens of a model with 30 layers, after that second and every time.
"""

from collections.abc import Callable, Iterator, Sequence

TRANSFERS = 1024
TRANSFER_BYTES = 64 << 10  # Mooncake's own; it may be told larger ones


def transfers(of_key: Sequence[int]) -> int:
    """That the buffers of one key, of these sizes in bytes, need."""
    return sum(max(1, -(-size // TRANSFER_BYTES)) for size in of_key)


def in_parts(
    call: Callable[[slice], Sequence[int]],
    sizes: Sequence[Sequence[int]],
    weight: Callable[[Sequence[int]], int] = transfers,
    most: int = TRANSFERS,
) -> list[int]:
    """What `call` says of each key, one part after the other; the keys of a part have `most` of `weight` together.

    `sizes`: of each key's buffers, in bytes. After a part in which one has failed nothing more is asked for: the
    others are as that one, because a peer that hangs would be waited for again with each part.
    """
    found: list[int] = []
    for part in _parts([weight(of_key) for of_key in sizes], most):
        results = call(part)
        found += results
        if failures := [result for result in results if result < 0]:
            found += failures[:1] * (len(sizes) - part.stop)
            break
    return found


def _parts(weights: Sequence[int], most: int) -> Iterator[slice]:
    """Each of one key at least."""
    begin, queued = 0, 0
    for index, weight in enumerate(weights):
        if index > begin and queued + weight > most:
            yield slice(begin, index)
            begin, queued = index, 0
        queued += weight
    if weights:
        yield slice(begin, len(weights))
