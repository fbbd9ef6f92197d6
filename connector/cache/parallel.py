"""Which KV heads a tensor-parallel rank holds, and which ranks of a producer fill a rank of a consumer.

vLLM splits KV heads evenly over the ranks and, where ranks outnumber heads, gives each head to several neighbours.
MLA's latent counts as one head that every rank holds. Pure arithmetic; ranks and heads count from 0.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """What one rank of the producer writes into one rank of the consumer: `heads` heads from `first_head` on.

    `shares`: how many ranks of the consumer that rank of the producer writes to. `heads` is 0 where a rank of the
    producer has nothing that another one does not have as well; it is asked all the same, so that it learns the end.
    """

    rank: int
    first_head: int
    heads: int
    shares: int


def heads_of_rank(rank: int, ranks: int, total: int) -> range:
    """Heads that the rank holds of the model's `total` KV heads.

    Raises: ValueError: for a number of ranks that neither divides `total` nor is a multiple of it.
    """
    if total % ranks and ranks % total:
        raise ValueError(f"{total} KV heads cannot be spread evenly over {ranks} ranks")
    first = rank * total // ranks
    return range(first, first + max(1, total // ranks))


def sources(ranks: int, producer_ranks: int, total: int) -> list[list[Source]]:
    """For each of the consumer's `ranks`, who fills it: every head exactly once.

    Raises: ValueError: as `heads_of_rank`, and for a producer without ranks.
    """
    if producer_ranks < 1:
        raise ValueError("the producer has no rank")
    copies = max(1, producer_ranks // total)  # ranks of the producer that hold the same head
    pairs: list[list[tuple[int, range]]] = []
    for rank in range(ranks):
        wanted = heads_of_rank(rank, ranks, total)
        pairs.append([])
        for producer_rank in range(producer_ranks):
            held = heads_of_rank(producer_rank, producer_ranks, total)
            common = range(max(wanted.start, held.start), min(wanted.stop, held.stop))
            if common and producer_rank % copies == rank % copies:  # the copies share the consumers among them
                pairs[rank].append((producer_rank, common))
    asked = [producer_rank for own in pairs for producer_rank, _ in own]
    for producer_rank in set(range(producer_ranks)) - set(asked):
        pairs[producer_rank % ranks].append((producer_rank, range(0)))
        asked.append(producer_rank)
    return [[Source(source, common.start, len(common), asked.count(source)) for source, common in own] for own in pairs]
