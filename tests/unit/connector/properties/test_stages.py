"""Pipelines on both sides, of any model, however its layers and heads are spread: each head of each layer of the
consumer is filled by one rank of the producer, and a rank whose share is lost is noticed.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connector.cache.layout import KVLayout
from connector.control.messages import Done, LayerPlace, Message, Register
from connector.control.misfit import misfit
from connector.scheduling.consumer_scheduler import ConsumerScheduler
from connector.scheduling.steps import RankAddress, unfilled
from connector.transfer.prompt import Prompt
from connector.transfer.share import Share
from tests.unit.connector.properties.simulated_cache import Served, Tables, heads_of, served

TOKENS = 15  # of the prompt: of every kind of group something is moved


@st.composite
def splits(draw: st.DrawFn, layers: int) -> list[set[int]]:
    """A model's layers over one to three stages, each with one at least."""
    stages = draw(st.integers(1, min(3, layers)))
    others = draw(st.lists(st.integers(0, stages - 1), min_size=layers - stages, max_size=layers - stages))
    owners = draw(st.permutations([*range(stages), *others]))
    return [{layer for layer, owner in enumerate(owners) if owner == stage} for stage in range(stages)]


def layouts_of(served: Served, ranks: int, split: Sequence[set[int]]) -> list[KVLayout]:
    """By number of the rank."""
    found = []
    for own in split:
        for rank in range(ranks):
            layout = served.model.layout(rank, ranks, 0, 1 + served.model.blocks_of_a_request, served.here)
            layers = tuple(layer for number, layer in enumerate(layout.layers) if number in own)
            found.append(replace(layout, layers=layers, stages=len(split)))
    return found


def registrations(served: Served, ours: list[KVLayout], producer_ranks: int, stages: int) -> dict[int, list[Register]]:
    """By the producer's rank, what a consumer of these ranks asks it for."""
    sent: list[tuple[str, Message]] = []
    scheduler = ConsumerScheduler(False, lambda *message: sent.append(message), lambda facts: None)
    scheduler.set_ranks([RankAddress(f"tcp://d{number}:1", {}, "", layout) for number, layout in enumerate(ours)])
    control = [f"tcp://p{rank}:1" for rank in range(producer_ranks * stages)]
    record = {"engine_id": "p", "control": control, "pipeline_parallel_size": stages}
    request: Any = SimpleNamespace(
        request_id="d",
        prompt_token_ids=[1] * TOKENS,
        num_prompt_tokens=TOKENS,
        kv_transfer_params={"transfer_id": "t", "do_remote_prefill": True, "producer": record},
    )
    scheduler.on_new_request(request)
    coming, _ = scheduler.tokens_from_producer(request, 0)
    tables = Tables(served.model, list(range(1, 1 + served.model.blocks_of_a_request)))
    tables.load(coming)
    scheduler.blocks_allocated(request, tables.tables, coming)
    asked: dict[int, list[Register]] = {rank: [] for rank in range(len(control))}
    for there, message in sent:
        assert isinstance(message, Register)
        asked[control.index(there)].append(message)
    return asked


def done(rank: int, share: Share) -> Done:
    return Done("t", rank, 0, 0, 0, 0.0, 0.0, "tcp", filled=share.places)


@given(served=served(), data=st.data())
def test_every_head_of_every_layer_comes_from_one_rank(served: Served, data: st.DataObject) -> None:
    layers = len(served.model.layers)
    ours = layouts_of(served, served.consumer_ranks, data.draw(splits(layers), label="the consumer's stages"))
    split = data.draw(splits(layers), label="the producer's stages")
    theirs = layouts_of(served, served.producer_ranks, split)
    filled: list[list[tuple[str, int]]] = [[] for _ in ours]
    answers: list[dict[int, tuple[Register, Done]]] = [{} for _ in ours]
    for rank, asked in registrations(served, ours, served.producer_ranks, len(split)).items():
        assert asked, "who is asked by nobody would keep its blocks"
        assert {registration.shares for registration in asked} == {len(asked)}
        for registration in asked:
            assert not misfit(registration, theirs[rank])
            share = Share(Prompt(theirs[rank]), registration)
            answers[registration.rank][rank] = registration, done(rank, share)
            for place in share.places:
                filled[registration.rank] += _heads(registration.layers[place])
    for number, layout in enumerate(ours):
        wanted = [(layer.name, head) for layer in layout.layers for head in heads_of(layer)]
        assert sorted(filled[number]) == sorted(wanted)
        own = {rank: registration for rank, (registration, _) in answers[number].items()}
        all_done = [answer for _, answer in answers[number].values()]
        assert not unfilled(own, all_done)
        for lost in all_done:
            rest = [answer for answer in all_done if answer is not lost]
            lacking = {head for place in unfilled(own, rest) for head in _heads(place)}
            theirs_alone = [own[lost.rank].layers[place] for place in lost.filled or ()]
            assert lacking == {head for place in theirs_alone for head in _heads(place)}


def _heads(place: LayerPlace) -> list[tuple[str, int]]:
    return [(place.name, head) for head in range(place.first_head, place.first_head + place.heads)]
