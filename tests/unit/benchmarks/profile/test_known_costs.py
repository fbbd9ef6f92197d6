"""What is measured at a stack of known costs gives these costs: a profile of a profile."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.connector.client import Stream
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.profile import alone, crowded, transfers
from benchmarks.profile.__main__ import Found, main
from benchmarks.profile.asking import Asking, Limits, Routes
from benchmarks.profile.build import Measurements, build
from benchmarks.profile.transfers import Moved
from planner.fit import NoFit
from planner.profile import Crowding, Profile, Step, Transfer, read
from tests.unit.benchmarks.profile.simulated_stack import CONSUMER, PAIR, PRODUCER, PROXY, SimulatedStack
from tests.unit.planner.profiles import profile

GPU = Step(
    step_s=0.0045,
    sequence_s=2e-5,
    context_token_s=1.3e-8,
    prompt_token_s=2e-5,
    prompt_pair_s=4e-10,
    join_s=0.001,
    join_token_s=5e-7,
)
CPU = Step(step_s=0.05, sequence_s=0.006, context_token_s=1e-6, prompt_token_s=0.003, prompt_pair_s=1e-8)


def made_up(step: Step, **changes: object) -> Profile:
    facts: dict[str, object] = {
        "step": step,
        "bytes_per_token": 57344.0,
        "transfers": {"tcp": Transfer(bytes_per_s=5e10, latency_s=0.001, handover_s=0.004)},
        "before_s": 0.003,
        "after_s": 0.003,
        "kv_tokens": 200_000,
        "block_tokens": 32,
        "step_tokens": 2048,
    }
    return profile(**{**facts, **changes})


async def measured(true: Profile, request_tokens: int = 16384) -> Profile:
    found, limits = await measurements(true, request_tokens)
    return build(found, limits, true.block_tokens, true.steps_ahead, {"CPU": "simulated"})


async def measurements(true: Profile, request_tokens: int) -> tuple[Measurements, Limits]:
    stack = SimulatedStack(true, proxy_s=0.002)
    limits = Limits(true.step_tokens, request_tokens, true.kv_tokens, repeats=3)
    asking = Asking(stack.ask, Routes(CONSUMER, PRODUCER, PAIR, PROXY), limits, Prompts(1), stack.sleep)
    steps = [*await alone.prompts(asking), *await alone.streams(asking), *await alone.mixed(asking)]
    moved = await transfers.transfers(asking)
    steps += await transfers.joins(asking)
    beside, split = await crowded.crowded(asking), await crowded.split(asking)
    return Measurements(steps, moved, beside, split, await alone.proxy_s(asking)), limits


@pytest.mark.parametrize("step", [GPU, CPU])
async def test_a_profile_of_known_costs(step: Step) -> None:
    true = made_up(step)
    found = await measured(true, request_tokens=16384 if step is GPU else 4096)
    for name in ("step_s", "sequence_s", "prompt_token_s"):
        assert getattr(found.step, name) == pytest.approx(getattr(step, name), rel=0.03), name
    assert found.step.prompt_pair_s == pytest.approx(step.prompt_pair_s, rel=0.1)
    assert found.step.context_token_s == pytest.approx(step.context_token_s, rel=0.1)
    # The way there and back, and through the proxy.
    assert found.before_s + found.after_s == pytest.approx(0.008, rel=0.05)
    assert found.bytes_per_token == pytest.approx(57344.0)
    transfer = found.transfers["tcp"]
    # Beside a step of 50 ms nothing is to be seen of 5 ms, or of 2 ms for the bytes.
    assert transfer.latency_s + transfer.handover_s == pytest.approx(0.005, abs=0.1 * step.step_s)
    if step is GPU:
        assert transfer.bytes_per_s == pytest.approx(5e10, rel=0.05)
    # When a first token comes in a step of the consumer is chance.
    assert found.residuals["split beside"].median < 0.05
    assert all(each.median < 0.02 for kind, each in found.residuals.items() if kind != "split beside")
    assert found.crowding.model_dump() == pytest.approx(dict.fromkeys(Crowding.model_fields, 0.0), abs=0.01)
    assert (found.split_s, found.beside_s, found.awaiting) == pytest.approx((0.0, 0.0, 0.0), abs=0.001)
    assert found.split_beside_s == pytest.approx(0.0, abs=0.2 * step.step_s)
    assert (found.step.overlap, found.step.launch_s) == (0.0, 0.0)
    kinds = {"prefill", "decode", "mixed", "join", "transfer", "split", "split beside", "beside"}
    assert set(found.residuals) == kinds


async def test_steps_that_compute_while_they_read() -> None:
    """And such as are launched kernel by kernel: of 516 tokens, which would take 10.3 ms."""
    true = made_up(GPU.model_copy(update={"overlap": 0.75, "launch_s": 0.017, "graph_tokens": 512}))
    found, limits = await measurements(true, 16384)
    step = build(found, replace(limits, graph_tokens=512), true.block_tokens, true.steps_ahead, {}).step
    assert (step.overlap, step.graph_tokens) == (0.75, 512)
    assert step.launch_s == pytest.approx(0.017, rel=0.02)
    assert step.prompt_token_s == pytest.approx(GPU.prompt_token_s, rel=0.03)
    assert step.step_s == pytest.approx(GPU.step_s, rel=0.03)


async def test_a_producers_prompts_come_later_while_the_consumer_has_streams() -> None:
    found = await measured(made_up(CPU, split_s=0.02, split_beside_s=0.08), request_tokens=4096)
    assert found.split_s == pytest.approx(0.02, abs=0.003)
    assert found.split_beside_s == pytest.approx(0.08, abs=0.2 * CPU.step_s)


async def test_values_of_before_that_was_measured_say_the_same_of_both() -> None:
    true = made_up(CPU, split_s=0.02)
    found, limits = await measurements(true, 4096)
    without = replace(found, split=[each for each in found.split if not each.beside_streams])
    old = build(without, limits, true.block_tokens, true.steps_ahead, {})
    assert old.split_beside_s is None
    assert old.constants.split_beside_s == old.split_s


async def test_what_the_repeats_do_not_tell_is_left_out_if_it_is_little() -> None:
    true = made_up(GPU)
    found, limits = await measurements(true, 16384)
    loose = [replace(each, second_s=[0.01, 0.05, 0.09]) for each in found.moved]

    def with_moved(*moved: Moved) -> Profile:
        return build(replace(found, moved=moved), limits, true.block_tokens, true.steps_ahead, {})

    told = with_moved(*found.moved[:-1], loose[-1])
    assert told.conditions == {"left out": "the second token behind a transfer of 8,192 tokens"}
    assert told.transfers["tcp"].handover_s == pytest.approx(0.005, abs=0.0005)
    with pytest.raises(NoFit, match=r"the second token behind a transfer of 256 tokens: .* is uncertain by"):
        with_moved(*loose)


async def test_what_arrives_is_in_the_way_of_streams() -> None:
    found = await measured(made_up(GPU))
    assert found.step.join_token_s == pytest.approx(GPU.join_token_s, rel=0.1)
    assert found.step.join_s == pytest.approx(GPU.join_s, rel=0.2)


async def test_instances_that_share_a_machine() -> None:
    """Of a CPU, where two prompts take longer than a stream: of the others this stack knows what is asked by then."""
    crowding = dict(zip(Crowding.model_fields, (0.4, 0.1, 0.2, 0.3), strict=True))
    found = await measured(
        made_up(CPU, crowding=crowding, awaiting=0.1, split_s=0.02, beside_s=0.015), request_tokens=4096
    )
    assert found.crowding.model_dump() == pytest.approx(crowding, abs=0.03)
    assert found.awaiting == pytest.approx(0.1, abs=0.02)
    assert (found.split_s, found.beside_s) == pytest.approx((0.02, 0.015), abs=0.003)


async def test_steps_too_small_for_the_usual_lengths() -> None:
    true = made_up(CPU, crowding=0.2, split_s=0.02, step_tokens=256)
    found = await measured(true, request_tokens=4096)
    assert found.split_s == pytest.approx(0.02, abs=0.003)
    assert found.crowding.prompts_beside_answers == pytest.approx(0.2, abs=0.05)


async def test_what_chance_adds_to_steps() -> None:
    """A tenth of them takes 4 ms more, beside another instance 9 ms."""
    usual, rare = (0.0,) * 9, 0.004
    found = await measured(made_up(CPU, jitter_s=(*usual, rare), jitter_beside_s=(*usual, 0.009)), request_tokens=4096)
    for jitter_s, longest_s in ((found.jitter_s, rare), (found.jitter_beside_s, 0.009)):
        assert len(jitter_s) == 200
        assert sorted(jitter_s) == list(jitter_s)
        assert jitter_s[100] == pytest.approx(0.0, abs=1e-4)
        assert sum(each > longest_s / 2 for each in jitter_s) / 200 == pytest.approx(0.1, abs=0.06)
        assert jitter_s[-2] == pytest.approx(longest_s, rel=0.1)


async def test_a_noisy_stack_gives_no_profile() -> None:
    """Every other request has a third more to wait for."""
    true = made_up(GPU)
    stack, others = SimulatedStack(true), SimulatedStack(true, proxy_s=0.02)
    stacks = itertools.cycle((stack, others))

    async def ask(route: Route, prompt: Sequence[int], output_tokens: int) -> Stream:
        return await next(stacks).ask(PROXY, prompt, output_tokens)

    limits = Limits(true.step_tokens, 2048, true.kv_tokens, repeats=5)
    asking = Asking(ask, Routes(CONSUMER, PRODUCER, PAIR, PROXY), limits, Prompts(1), stack.sleep)
    samples = await alone.prompts(asking)
    with pytest.raises(NoFit, match=r"a prompt of 16 tokens: the median of 15 repeats is uncertain by \d+%"):
        build(Measurements(samples, [], [], [], 0.0), limits, 32, 0, {})


async def test_prompts_that_take_too_long_are_left_out() -> None:
    """300 tokens a second: nothing of more than 20 s is measured."""
    stack = SimulatedStack(made_up(CPU))
    limits = Limits(step_tokens=2048, request_tokens=100_000, kv_tokens=200_000, repeats=3)
    asking = Asking(stack.ask, Routes(CONSUMER, PRODUCER, PAIR, PROXY), limits, Prompts(1), stack.sleep)
    lengths = [sample.parts["prompt_token_s"] for sample in await alone.prompts(asking)]
    assert lengths == [16, 64, 256, 512, 1024, 2048, 4096]
    assert max(sample.parts["context_token_s"] for sample in await alone.streams(asking)) < 20 / 0.003 * 1.5


async def test_a_cache_that_does_not_come_is_no_measurement() -> None:
    stack = SimulatedStack(made_up(GPU))
    limits = Limits(step_tokens=2048, request_tokens=4096, kv_tokens=200_000, repeats=3)
    asking = Asking(stack.ask, Routes(CONSUMER, PRODUCER, CONSUMER, PROXY), limits, Prompts(1), stack.sleep)
    await alone.prompts(asking)
    with pytest.raises(RequestFailed, match="no KV cache came from the producer"):
        await transfers.transfers(asking)


async def test_a_producer_that_fails_is_no_neighbour() -> None:
    stack = SimulatedStack(made_up(CPU))

    async def ask(route: Route, prompt: Sequence[int], output_tokens: int) -> Stream:
        if route is PRODUCER and output_tokens > 1:
            raise RequestFailed("it answered 500")
        return await stack.ask(route, prompt, output_tokens)

    limits = Limits(step_tokens=2048, request_tokens=4096, kv_tokens=200_000, repeats=3)
    asking = Asking(ask, Routes(CONSUMER, PRODUCER, PAIR, PROXY), limits, Prompts(1), stack.sleep)
    await alone.prompts(asking)
    await alone.streams(asking)
    with pytest.raises(RequestFailed, match="it answered 500"):
        await crowded.crowded(asking)


async def test_the_values_beside_a_profile_give_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = made_up(GPU)
    found, limits = await measurements(true, 16384)
    values = tmp_path / "measured.json"
    told = Found(found, limits, true.block_tokens, {"CPU": "simulated"}, None).values()
    values.write_text(json.dumps(told))

    assert refit(monkeypatch, values, tmp_path / "profile.json") == 0
    expected = build(found, limits, true.block_tokens, true.steps_ahead, {"CPU": "simulated"})
    assert read(tmp_path / "profile.json", "--profile") == expected

    values.write_text(json.dumps({**told, "unquiet": "not quiet: small requests took longer"}))
    assert refit(monkeypatch, values, tmp_path / "noisy.json") == 1
    assert "not quiet: small requests took longer" in capsys.readouterr().err
    assert not (tmp_path / "noisy.json").exists()

    del told["limits"]
    values.write_text(json.dumps(told))
    assert refit(monkeypatch, values, tmp_path / "another.json") == 2
    assert f"--measured='{values}': expected what `make profile` has measured: KeyError" in capsys.readouterr().err
    assert not (tmp_path / "another.json").exists()


def refit(monkeypatch: pytest.MonkeyPatch, values: Path, out: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["profile", "--measured", str(values), "--out", str(out)])
    return main()
