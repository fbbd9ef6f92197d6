"""One prompt's blocks from one rank to another, the whole way: registration, prefill, writes, outcome."""

from tests.rdma.inside.ranks import Rank

# As in rank.py.
MEMORY_BYTES = 8 << 20
LAYER_BYTES = MEMORY_BYTES // 2
PAGE_BYTES = 64 << 10  # of a block of one layer
BLOCKS = list(range(32))
TRANSFER_BYTES = 2 * len(BLOCKS) * PAGE_BYTES
ENDS_S = 60  # what must end at all


def transfer(producer: Rank, consumer: Rank, transfer_id: str) -> list[str]:
    """Move `BLOCKS`, as they lie. Returns: the consumer's requests that are over, well or not."""
    consumer.ask("load", transfer_id, producer.address, BLOCKS)
    producer.ask("prefill", transfer_id, BLOCKS)
    assert producer.ask("finished", ENDS_S) == [transfer_id]
    return list(consumer.ask("finished", ENDS_S))
