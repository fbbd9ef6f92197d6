"""Speculative decoding: what its drafts are, what is sent and counted, and what the page makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.connector import page
from benchmarks.connector.client import Client
from benchmarks.connector.measurements import guesses, speculation
from benchmarks.connector.measurements.guesses import Guesses
from benchmarks.connector.options import parse
from benchmarks.connector.run import Run
from benchmarks.connector.topology import servers
from benchmarks.errors import CannotStart, RequestFailed
from benchmarks.model_shapes import bounds, drafts, guessable
from benchmarks.model_shapes.guessable import Fill, Weight
from benchmarks.model_shapes.shapes import FULL, TINY
from stack.configuration.settings import REPOSITORY
from tests.unit.benchmarks.conftest import ABOUT, Scripted

ITSELF = ("speculation", "--draft", "itself", "--model-shape", "qwen2.5-7b")
LOAD = ("--load-rounds", "2", "--load-prompt-tokens", "16", "--load-output-tokens", "5", "--requests-per-user", "2")


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "SETTLED_S", 0)


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads((folder / "run.json").read_text())
    return found


async def test_routes_take_turns_with_the_same_prompts(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(*ITSELF, *LOAD, "--users", "1,2")
    await speculation.measure(run, client, "tcp", [scripted.alone, scripted.pair])
    single, ours = (
        [tuple(body["prompt"]) for body in vllm.asked if body["max_tokens"] == 5]
        for vllm in (scripted.single, scripted.consumer)
    )
    assert len(single) == 2 * 2 * (1 + 2)  # rounds, requests per user, users
    assert len(set(single)) == len(single)
    assert set(single) == set(ours)
    found = tables(tmp_path)["speculation"]
    assert [row["route"] for row in found[:4]] == ["single"] * 2 + ["ours"] * 2
    assert [row.get("equal") for row in found[:4]] == [None, None, 5, 5]


async def test_a_load_has_the_guesses_of_the_server_that_decodes(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    scripted.single.accepts, scripted.consumer.accepts, scripted.producer.accepts = 2, 1, 3
    run = make_run(*ITSELF, *LOAD, "--users", "2")
    await speculation.measure(run, client, "tcp", [scripted.alone, scripted.pair])
    names = ("route", "round", "drafts", "draft_tokens", "accepted", "answered", "loaded")
    assert [tuple(row[name] for name in names) for row in tables(tmp_path)["guesses"]] == [
        ("single", 0, 4, 12, 8, 4, 0),
        ("ours", 0, 4, 12, 4, 4, 4),
        ("single", 1, 4, 12, 8, 4, 0),
        ("ours", 1, 4, 12, 4, 4, 4),
    ]


async def test_a_request_whose_cache_did_not_come_has_failed(
    scripted: Scripted, client: Client, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    scripted.consumer.cached_tokens = 0
    run = make_run(*ITSELF, *LOAD, "--users", "1", "--load-rounds", "1")
    await speculation.measure(run, client, "tcp", [scripted.alone, scripted.pair])
    found = tables(tmp_path)
    assert all("no KV cache came" in row["failed"] for row in found["speculation"] if row["route"] == "ours")
    assert [(row["answered"], row["loaded"]) for row in found["guesses"]] == [(2, 0), (0, 0)]


def test_guesses_are_those_of_all_engines() -> None:
    lines = [f'{guesses.DRAFTS}{{engine="{engine}"}} {count}' for engine, count in enumerate((3.0, 4.0))]
    lines += [f"{guesses.DRAFT_TOKENS} 21.0", f"{guesses.ACCEPTED} 14.0", "vllm:num_requests_running 0.0"]
    found = guesses.guesses_in("\n".join(lines) + "\n")
    assert found == Guesses(7, 21, 14)
    assert found - Guesses(2, 6, 5) == Guesses(5, 15, 9)


def test_a_server_that_does_not_speculate_is_named() -> None:
    with pytest.raises(CannotStart, match=r"no vllm:spec_decode_num_drafts_total: expected a server that speculates"):
        guesses.guesses_in("vllm:num_requests_running 0.0\n")


async def test_metrics_that_a_server_does_not_have_are_a_failed_request(client: Client, scripted: Scripted) -> None:
    with pytest.raises(RequestFailed, match="404"):
        await client.metrics(f"{scripted.alone.decode_url}/nothing")


def cells(text: str, heading: str, route: str) -> list[str]:
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    (line,) = (line for line in part.splitlines() if f"| {route} |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def request(route: str, tpot_s: float, **more: Any) -> dict[str, Any]:
    gaps = [2 * tpot_s, 2 * tpot_s]  # two tokens an event: five tokens in three
    return {"stage": "tcp", "users": 8, "route": route, "ttft_s": 0.1, "itl_s": gaps, "tokens": 5, **more}


def test_the_page_has_tpot_beside_the_single_servers() -> None:
    rows = [request("single", tpot) for tpot in (0.010, 0.010, 0.020)]
    rows += [request("ours", tpot, equal=equal) for tpot, equal in ((0.011, 5), (0.0105, 5), (0.022, 2))]
    rows += [{**request("single", 9.0), "users": 32}]
    rows += [{"stage": "tcp", "users": 8, "route": "ours", "failed": "HTTP 500"}]
    text = page.render({**ABOUT, "ended": "complete", "speculation": rows}, "run.json")
    heading = "With speculative decoding"
    assert cells(text, heading, "ours") == [
        "tcp",
        "8",
        "ours",
        "11.0",
        "1.10",
        "21.8",
        "1.10",
        "2 of 3",
        "5",
        "4, 1 failed",
    ]
    assert "| tcp | 8 | single | 10.0 |  | 19.8 |  |  |  | 3 |" in text
    assert "- 1 × ours: HTTP 500" in text


def test_what_was_guessed_leaves_out_the_step_behind_each_load() -> None:
    common = {"stage": "tcp", "users": 8, "answered": 2}
    rows = [
        {**common, "route": "single", "drafts": 10, "draft_tokens": 30, "accepted": 25, "loaded": 0},
        {**common, "route": "single", "drafts": 10, "draft_tokens": 30, "accepted": 15, "loaded": 0},
        {**common, "route": "ours", "drafts": 1022, "draft_tokens": 3066, "accepted": 2040, "loaded": 2},
    ]
    text = page.render({**ABOUT, "ended": "complete", "guesses": rows}, "run.json")
    heading = "What the drafts guessed"
    assert cells(text, heading, "single")[3:] == ["20", "60", "40", "2.000", "5.0"]
    assert cells(text, heading, "ours")[3:] == ["1,022", "3,066", "2,040", "2.000", "510.0"]


def test_a_route_that_answered_nothing_has_no_shares() -> None:
    row = {"stage": "tcp", "users": 8, "route": "ours", "drafts": 0, "draft_tokens": 0, "accepted": 0}
    text = page.render({**ABOUT, "ended": "complete", "guesses": [{**row, "answered": 0, "loaded": 0}]}, "run.json")
    assert cells(text, "What the drafts guessed", "ours")[3:] == ["0", "0", "0", "", ""]


@pytest.mark.parametrize("shapes", [FULL, TINY], ids=["full", "tiny"])
@pytest.mark.parametrize("kind", drafts.KINDS)
def test_each_kind_of_draft_is_what_vllm_wants(kind: str, shapes: dict[str, Any], tmp_path: Path) -> None:
    draft, model = drafts.DRAFTS[kind], tmp_path / "model"
    (name,) = draft.shapes
    config = json.loads(drafts.speculative_config(kind, 2, shapes[name].config, model, tmp_path))
    folder = config.pop("model", None)
    assert config == {"method": draft.method, "num_speculative_tokens": 2}
    if kind == "itself":
        assert folder == str(model)
    elif kind == "mtp":
        assert folder is None  # part of the target
        assert shapes[name].config["num_nextn_predict_layers"] == 1
    else:
        head = json.loads((Path(folder) / "config.json").read_text())
        assert (head["architectures"], head["num_hidden_layers"]) == (["LlamaForCausalLM"], 1)
        same = ("hidden_size", "vocab_size", "num_key_value_heads", "intermediate_size", "rope_theta")
        assert [head[key] for key in same] == [shapes[name].config[key] for key in same]


def test_every_server_gets_the_draft_and_weights_for_it() -> None:
    asked = '{"method": "eagle", "model": "/a b"}'
    options = parse(["speculation", "--draft", "eagle", "--profile", "gpu"])
    words = servers.blueprint(options, Path("/model"), "127.0.0.1:2379", "0" * 16, asked).common["VLLM_EXTRA_ARGS"]
    assert f"--worker-extension-cls {guessable.WORKER_EXTENSION}" in words
    assert words.endswith(f"--speculative-config '{asked}'")
    itself = servers.common(parse([*ITSELF, "--profile", "gpu"]))["VLLM_EXTRA_ARGS"]
    assert f"--worker-extension-cls {bounds.WORKER_EXTENSION}" in itself


def test_the_class_that_vllm_imports_for_a_head_is_there() -> None:
    """Not imported here: it needs vLLM, whose environment this is not."""
    module, name = guessable.WORKER_EXTENSION.rsplit(".", 1)
    assert f"class {name}:" in (REPOSITORY / f"{module.replace('.', '/')}.py").read_text()


FIRST, LAST, MODULE = "model.layers.0.", "model.layers.27.", "model.layers.28.mtp_block."
OUT, IN, NORM = "self_attn.o_proj.weight", "mlp.gate_up_proj.weight", "input_layernorm.weight"


@pytest.mark.parametrize(
    ("name", "canonical", "fill", "high"),
    [
        (FIRST + OUT, FIRST + OUT, Fill.SPREAD, 0.8),
        (FIRST + IN, FIRST + IN, Fill.SPREAD, 0.1),
        (LAST + OUT, LAST + OUT, Fill.ZERO, 0),
        (LAST + IN, LAST + IN, Fill.SPREAD, 0.1),
        (MODULE + OUT, FIRST + OUT, Fill.SPREAD, 0.8),
        (MODULE + IN, FIRST + IN, Fill.SPREAD, 0.1),
        *((name, name, Fill.FIRST_HALF, 0) for name in ("model.fc.weight", "model.layers.28.eh_proj.weight")),
        ("model.embed_tokens.weight", "model.embed_tokens.weight", Fill.UNIT_ROWS, 0.1),
        ("lm_head.weight", "lm_head.weight", Fill.SPREAD, 0.1),
    ],
)
def test_a_head_is_the_targets_first_layer(name: str, canonical: str, fill: Fill, high: float) -> None:
    found = guessable.weight(name, (64, 300))
    assert (found.name, found.fill) == (canonical, fill)
    assert found.high == pytest.approx(high)


def test_norms_stay_as_they_are() -> None:
    assert guessable.weight(MODULE + NORM, (64,)) == Weight(FIRST + NORM, Fill.AS_IT_IS)
