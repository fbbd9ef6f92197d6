"""Every rank of a producer and every rank of a consumer, of any model and any split of its heads, where nothing goes
wrong: the transfer arrives, and the consumer's memory is then what a computation of its own would have left, as far as
the next token needs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.cache.layout import left_out_tokens
from connector.cache.pieces import Piece
from connector.control.messages import Done
from connector.mooncake.engines import Engines
from connector.mooncake.polled_write import always
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.producer_scheduler import ProducerScheduler
from connector.telling.stats import TransferStats
from connector.transfer.producer import Pace, Producer
from tests.unit.connector.fakes import ImmediateFences, never_opened, until
from tests.unit.connector.properties.simulated_cache import MOST_TOKENS, Served, served
from tests.unit.connector.properties.simulated_consumers import Engine, Mailbox, Plan, Share, Write
from tests.unit.connector.properties.simulated_vllm import SOURCE_START, Cache, Gpu, Vllm

LONG_S = 3600.0


class AtOnce(Engine):
    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        write = Write(self._shares[segment], list(pieces), unwanted=False)
        self.in_flight.append(write)
        self.end(write, lost=False)


@settings(max_examples=150)
@given(
    served=served(),
    plan=st.builds(
        Plan,
        tokens=st.sampled_from(range(3, MOST_TOKENS)),
        held=st.sampled_from([0, 0, 1, 2]),
        extra=st.just(0),
        same_tokens=st.just(True),
        descending=st.booleans(),
        checksum=st.booleans(),
    ),
    hit=st.sampled_from([0, 0, 1, 2]),
    steps=st.lists(st.sampled_from([1, 2, 3, 4, 5, 9]), min_size=1, max_size=3),
    asked_after=st.integers(0, 4),
    preempted_after=st.integers(1, 8),
)
def test_what_the_next_token_needs_arrives(
    served: Served, plan: Plan, hit: int, steps: list[int], asked_after: int, preempted_after: int
) -> None:
    """Args: hit: blocks of a prefix that the producer has already; steps: by how many tokens it goes on, in turn."""
    found: dict[int, list[Share]] = {rank: [] for rank in range(served.consumer_ranks)}
    for rank in range(served.producer_ranks):
        shares = plan.shares(0, replace(served, rank=rank))
        assert [share.registration.shares for share in shares] == [len(shares)] * len(shares)
        for share in shares:
            found[share.registration.rank].append(share)
        run(replace(served, rank=rank), plan, shares, hit, steps, asked_after, preempted_after)
    for parts in found.values():
        filled = [at for part in parts for at in part.units]
        assert sorted(filled) == sorted(parts[0].everything), "each head of each layer from one rank of the producer"


def run(
    served: Served,
    plan: Plan,
    shares: list[Share],
    hit: int,
    steps: list[int],
    asked_after: int,
    preempted_after: int,
) -> None:
    """One rank of the producer."""
    num_blocks = 1 + served.model.blocks_of_a_request
    layout = served.model.layout(served.rank, served.producer_ranks, SOURCE_START, num_blocks, served.here)
    cache = Cache(served.model, layout)
    by_segment = {share.registration.segments["tcp"]: share for share in shares}
    mailbox = Mailbox(by_segment)
    producer = Producer(
        engine_id="p",
        rank=0,
        cache=RankCache(layout, cache, Engines({"tcp": AtOnce(cache, by_segment)}, never_opened)),
        wire=mailbox,
        fences=ImmediateFences(),
        pace=Pace(LONG_S, LONG_S, 0, 1),
        stats=TransferStats(),
    )
    try:
        scheduler = ProducerScheduler(left_out_tokens((group.kind for group in layout.groups), layout.lookahead))
        vllm = Vllm(producer, scheduler, cache, Gpu(False, lambda: None), ends_late=False)
        vllm.new_request(0, plan.tokens)
        for step in range(max(MOST_TOKENS + preempted_after, asked_after + 1)):
            if step == asked_after:
                for share in shares:
                    producer.on_message(share.registration)
            preempted = vllm.running if step == preempted_after else []
            wanted = [(request, hit, steps[step % len(steps)]) for request in vllm.running if request not in preempted]
            vllm.begin_step(preempted, wanted)
            until(lambda: vllm.preemption is None or vllm.go_on())
            while vllm.chunks:
                vllm.compute_layer(hook=step % 2 == 0)
        until(lambda: all(share.answers for share in shares))
        for share in shares:
            nothing_needed = not any(group.block_ids for group in share.registration.groups)
            assert isinstance(share.answers[0], Done) != nothing_needed, share.answers
            share.assert_right()
        until(lambda: _all_let_go_after_a_step(vllm))
        assert sorted(vllm.free) == list(range(1, num_blocks))
    finally:
        producer.close()


def _all_let_go_after_a_step(vllm: Vllm) -> bool:
    vllm.begin_step([], [])
    return vllm.all_let_go
