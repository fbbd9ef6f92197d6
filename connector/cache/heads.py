"""Which KV heads a tensor-parallel rank holds, and which ranks of a producer fill a rank of a consumer.

vLLM splits KV heads evenly over the ranks and, where ranks outnumber heads, gives each head to several neighbours.
MLA's latent counts as one head that every rank holds. Layers of one model may differ in heads. Pure arithmetic; ranks
and heads count from 0.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """What one rank of the producer writes into one rank of the consumer: `heads[n]` of each layer with `n` heads.

    `shares`: how many ranks of the consumer that rank of the producer writes to. `heads` is empty where a rank of the
    producer has nothing that another one does not have as well; it is asked all the same, so that it learns the end.
    """

    rank: int
    heads: dict[int, range]
    shares: int


def heads_of_rank(rank: int, ranks: int, total: int) -> range:
    """Heads that the rank holds of a layer's `total` KV heads.

    Raises: ValueError: for a number of ranks that neither divides `total` nor is a multiple of it.
    """
    if total % ranks and ranks % total:
        raise ValueError(f"{total} KV heads cannot be spread evenly over {ranks} ranks")
    first = rank * total // ranks
    return range(first, first + max(1, total // ranks))


def sources(ranks: int, producer_ranks: int, totals: Collection[int]) -> list[list[Source]]:
    """For each of the consumer's `ranks`, who fills it: every head of every layer exactly once.

    Args: totals: how many heads the model's layers have.
    Raises: ValueError: as `heads_of_rank`, and for a producer without ranks.
    """
    if producer_ranks < 1:
        raise ValueError("the producer has no rank")
    plan: list[dict[int, dict[int, range]]] = [{} for _ in range(ranks)]
    for total in sorted(totals):
        for rank, producer_rank, common in _pairs(ranks, producer_ranks, total):
            plan[rank].setdefault(producer_rank, {})[total] = common
    asked = {producer_rank for own in plan for producer_rank in own}
    for producer_rank in set(range(producer_ranks)) - asked:
        plan[producer_rank % ranks][producer_rank] = {}
    shares = [sum(producer_rank in own for own in plan) for producer_rank in range(producer_ranks)]
    return [
        [Source(producer_rank, heads, shares[producer_rank]) for producer_rank, heads in sorted(own.items())]
        for own in plan
    ]


def _pairs(ranks: int, producer_ranks: int, total: int) -> list[tuple[int, int, range]]:
    """Who writes which heads to whom, of layers with `total` heads."""
    copies = max(1, producer_ranks // total)  # ranks of the producer that hold the same head
    pairs = []
    for rank in range(ranks):
        wanted = heads_of_rank(rank, ranks, total)
        for producer_rank in range(producer_ranks):
            held = heads_of_rank(producer_rank, producer_ranks, total)
            common = range(max(wanted.start, held.start), min(wanted.stop, held.stop))
            if common and producer_rank % copies == rank % copies:  # the copies share the consumers among them
                pairs.append((rank, producer_rank, common))
    return pairs
