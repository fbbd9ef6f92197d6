"""Reading a profile, and what is simulated from it."""

import json
from pathlib import Path

import pytest

from planner.profile import Crowding, Residual, Transfer, read
from planner.simulation.costs import TransferCosts
from planner.simulation.machine import Crowding as SimulatedCrowding
from planner.simulation.machine import Pace
from stack.configuration.environment import ConfigError
from tests.unit.planner.profiles import profile


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(profile().model_dump_json())
    assert read(file, "--profile") == profile()


def test_no_profile_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--profile='.*none': No such file.*`make profile` writes one"):
        read(tmp_path / "none", "--profile")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kv_tokens": 0}, "kv_tokens: Input should be greater than or equal to 1"),
        ({"step": {"step_s": -1}}, r"step\.step_s: Input should be greater than or equal to 0"),
        ({"transfers": {}}, "transfers: Dictionary should have at least 1 item"),
        ({"version": 2}, "version: Input should be 1"),
        ({"kv_blocks": 1}, "kv_blocks: Extra inputs are not permitted"),
    ],
)
def test_a_bad_profile_is_named_by_its_member(tmp_path: Path, change: dict[str, object], line: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(json.loads(profile().model_dump_json()) | change))
    with pytest.raises(ConfigError, match=line):
        read(file, "--profile")


def test_a_slower_server_and_a_narrower_transport() -> None:
    found = profile()
    for server, slower in ((found.server(), 1.0), (found.server(slower=1.5), 1.5)):
        assert server.costs.of_answers(1, 500) == pytest.approx(0.01 * slower)
        assert server.costs.of_prompts(100, 5000.0) == pytest.approx(0.01 * slower)
    assert found.transfer(bandwidth=0.1) == TransferCosts(1000.0, 1e8, 0.0, 1, 0.0)
    assert found.error == 0.04


def test_the_first_transport_is_the_one_that_was_used() -> None:
    transfers = {
        "rdma": Transfer(bytes_per_s=5e9, latency_s=0.1, handover_s=0.2),
        "tcp": Transfer(bytes_per_s=1e9, latency_s=0.0, handover_s=0.0),
    }
    found = profile(transfers=transfers)
    assert found.transfer().bytes_per_s == 5e9
    assert found.transfer("tcp").bytes_per_s == 1e9


def test_a_slower_server_overlaps_as_much() -> None:
    step = profile().step.model_copy(update={"overlap": 0.5, "launch_s": 0.02, "graph_tokens": 512})
    costs = profile(step=step).server(slower=1.5).costs
    assert (costs.overlap, costs.graph_tokens) == (0.5, 512)
    assert costs.launch_s == pytest.approx(0.03)


@pytest.mark.parametrize(("block_tokens", "simulated"), [(16, 16), (128, 128), (256, 128), (48, 16), (7, 1)])
def test_blocks_of_any_size_are_told_in_one_that_divides_both(block_tokens: int, simulated: int) -> None:
    assert profile(block_tokens=block_tokens).server().block_tokens == simulated


def test_instances_that_are_apart_do_not_slow_each_other() -> None:
    shared = profile(crowding=0.3, awaiting=0.2, beside_s=0.01, jitter_s=(-0.001, 0.002), jitter_beside_s=(0.0, 0.004))
    assert shared.server().pace == Pace(SimulatedCrowding(0.3, 0.3, 0.3, 0.3), 0.2, (-0.001, 0.002), (0.0, 0.004))
    assert shared.apart.server().pace == Pace(SimulatedCrowding(), 0.0, (-0.001, 0.002), (-0.001, 0.002))
    assert shared.apart.crowding == Crowding()
    assert (shared.constants.beside_s, shared.apart.constants.beside_s) == (0.01, 0.0)
    beside = shared.residuals | {"beside": Residual(samples=8, median=0.3, worst=0.4)}
    unsure = shared.model_copy(update={"residuals": beside})
    assert (unsure.error, unsure.apart.error) == (0.3, 0.04)


def test_a_profile_tells_answers_from_prompts(tmp_path: Path) -> None:
    """One that does not, as the first had it, says the same of all."""
    told = profile(crowding=Crowding(answers_beside_answers=0.3, prompts_beside_answers=0.2), split_s=0.01)
    file = tmp_path / "profile.json"
    file.write_text(told.model_dump_json())
    assert read(file, "--profile") == told
    assert told.server().pace.crowding == SimulatedCrowding(0.3, 0.0, 0.2, 0.0)
    assert (told.constants.split_s, told.constants.split_beside_s) == (0.01, 0.01)
    assert profile(split_s=0.01, split_beside_s=0.02).constants.split_beside_s == 0.02
    file.write_text(json.dumps(json.loads(told.model_dump_json()) | {"crowding": 0.25}))
    assert set(read(file, "--profile").crowding.model_dump().values()) == {0.25}
    file.write_text(json.dumps(json.loads(told.model_dump_json()) | {"crowding": -1}))
    with pytest.raises(
        ConfigError, match=r"crowding\.answers_beside_answers: Input should be greater than or equal to 0"
    ):
        read(file, "--profile")
