"""Which server is asked for which prompt, when, and what becomes of a cache that came from elsewhere than it should."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.connector.client import Client
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import CannotStart
from benchmarks.results import Results
from benchmarks.store import asked, page
from benchmarks.store.instances import ANEW
from benchmarks.store.options import parse
from benchmarks.store.turns import Turns
from tests.unit.benchmarks.conftest import ABOUT
from tests.unit.benchmarks.store.scripted_producer import ScriptedProducer, routes_to

WHOLE = {100: 96, 64: 32}


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Turns:
    monkeypatch.setattr(asked, "POLL_S", 0.0)
    options = parse(["--prompt-tokens", "64,100", "--rounds", "2", "--warm-up", "1"])
    return Turns(options, Prompts(1), Results(tmp_path, "run", ABOUT, page.render))


def producers(**of_first: Any) -> dict[str, ScriptedProducer]:
    store: set[tuple[int, ...]] = set()
    return {
        "plain": ScriptedProducer(),
        "first": ScriptedProducer(store=store, **of_first),
        "second": ScriptedProducer(store=store),
    }


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["ttft"]
    return found


async def test_every_route_of_a_round_has_its_one_new_prompt(turns: Turns, client: Client, tmp_path: Path) -> None:
    servers = producers()
    async with routes_to(**servers) as routes:
        await turns.measure(client, routes)

    found = rows(tmp_path)
    assert [(row["prompt_tokens"], row["route"]) for row in found] == [
        (tokens, route)
        for tokens in (64, 100)
        for route in (
            *("store off", "nothing to find", "local hit", "from the store"),
            *("nothing to find", "store off", "from the store", "local hit"),
        )
    ]
    expected = {"store off": (0, 0), "nothing to find": (0, 0), "local hit": (1, 0), "from the store": (0, 1)}
    for row in found:
        local, stored = (share * WHOLE[row["prompt_tokens"]] for share in expected[row["route"]])
        assert (row["local_tokens"], row["store_tokens"]) == (local, stored)
        assert "failed" not in row
        assert row["same_token"]
        assert row["ttft_s"] > 0
    plain, first, second = (server.prompts for server in servers.values())
    assert plain == second
    assert len(set(plain)) == len(plain) == 6
    assert [*dict.fromkeys(first)] == plain


async def test_what_is_still_being_saved_is_waited_for(turns: Turns, client: Client, tmp_path: Path) -> None:
    async with routes_to(**producers(saving=3)) as routes:
        await turns.measure(client, routes)

    assert not [row for row in rows(tmp_path) if "failed" in row]


async def test_a_server_that_has_started_anew_is_asked_for_the_same_prompts_beside_new_ones(
    turns: Turns, client: Client, tmp_path: Path
) -> None:
    servers = producers()
    anew = ScriptedProducer(store=servers["first"].store)
    async with routes_to(**servers) as routes, routes_to(anew=anew) as again:
        await turns.measure(client, routes)
        before = servers["plain"].prompts
        await turns.measure_again(client, {**routes, ANEW: again["anew"]})

    found = [row for row in rows(tmp_path) if row["stage"] == "after a restart"]
    assert [row["route"] for row in found] == 2 * ["store off", "from the store", "from the store", "store off"]
    assert [row["store_tokens"] for row in found] == [0, 32, 32, 0, 0, 96, 96, 0]
    assert not [row for row in found if "failed" in row]
    assert anew.prompts == before
    assert not set(servers["plain"].prompts[len(before) :]) & set(before)


async def test_a_cache_that_the_store_does_not_have_fails_the_request_and_the_run_goes_on(
    turns: Turns, client: Client, tmp_path: Path
) -> None:
    servers = producers()
    servers["second"].store = set()
    async with routes_to(**servers) as routes:
        await turns.measure(client, routes)

    failed = {row["route"]: row["failed"] for row in rows(tmp_path) if "failed" in row and row["prompt_tokens"] == 100}
    found, expected = (f"0 tokens found locally and {tokens} in the store" for tokens in (0, 96))
    assert failed == {"from the store": f"{found} instead of {expected}"}
    assert len(rows(tmp_path)) == 16


async def test_a_load_that_fails_fails_its_request_although_its_tokens_are_counted_as_found(
    turns: Turns, client: Client, tmp_path: Path
) -> None:
    servers = producers()
    servers["second"].loads_fail = True
    async with routes_to(**servers) as routes:
        await turns.measure(client, routes)

    failed = {row["route"]: row["failed"] for row in rows(tmp_path) if "failed" in row and row["prompt_tokens"] == 100}
    assert [*failed] == ["from the store"]
    assert "96 in the store, with 3 blocks that failed instead of" in failed["from the store"]


async def test_a_request_that_is_refused_is_a_row(turns: Turns, client: Client, tmp_path: Path) -> None:
    servers = producers()
    servers["plain"].status = 500
    async with routes_to(**servers) as routes:
        await turns.measure(client, routes)

    assert {row["route"] for row in rows(tmp_path) if "HTTP 500" in row.get("failed", "")} == {"store off"}


async def test_a_server_that_does_not_count_its_hits_ends_the_run(turns: Turns, client: Client) -> None:
    async with routes_to(**producers(counts=False)) as routes:
        with pytest.raises(CannotStart, match="no vllm:prefix_cache_hits_total: expected a vLLM that counts it"):
            await turns.measure(client, {**routes, "plain": Route("plain", routes["first"].decode_url)})


async def test_another_token_from_the_store_than_was_computed_is_told(
    turns: Turns, client: Client, tmp_path: Path
) -> None:
    servers = producers()
    servers["second"].first_token = 7
    async with routes_to(**servers) as routes:
        await turns.measure(client, routes)
    assert {(row["route"], row["same_token"]) for row in rows(tmp_path)} == {
        ("store off", True),
        ("nothing to find", True),
        ("local hit", True),
        ("from the store", False),
    }
