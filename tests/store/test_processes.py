"""STACK_STORE=true: `make up` starts a store beside the instances, what it holds outlives them, and it is watched."""

import itertools
from pathlib import Path

from stack.configuration.settings import StackSettings
from stack.instances.record import Instance
from tests.integration.failures.watching import SHOWN_LIMIT_S, panel_queries, watching
from tests.parallel.stacks import TinyStack, completion, prompts
from tests.real_stack import START_LIMIT_S, answers, free_ports, metrics, post, running, wait_until
from tests.store.servers import whole_blocks

SAVED_LIMIT_S = 30.0
PROMPT_TOKENS = 700


def test_a_producer_that_has_started_anew_finds_what_it_had_computed(tmp_path: Path) -> None:
    stack = TinyStack(tmp_path)
    stack.with_model()
    stack.variables |= {
        "STACK_STORE": "true",
        "STORE_PORT": str(int(stack.variables["CONTROL_PORT"]) + 100),
        "STORE_BYTES": str(64 << 20),
        "STORE_LOOKUP_TIMEOUT_S": "1",
    }
    with running(stack):
        status = stack.make("status").stdout.splitlines()
        rows = {row.split()[0]: row.split()[1:3] for row in status}
        assert [rows[name] for name in ("store-master-0", "store-0")] == [["RUNNING", "healthy"]] * 2
        body = completion(prompts("store", PROMPT_TOKENS)[0])
        first = post(stack.api_url + "/v1/completions", body)
        wait_until(lambda: is_idle(stack.prefill_url), SAVED_LIMIT_S, "the producer has saved its blocks")
        before = producer(stack).instance_id
        (known,) = {each.store for each in stack.records()}
        assert known.startswith(f"127.0.0.1:{stack.variables['STORE_PORT']}/"), "producer and consumer share it"

        stack.vllm_server("prefill").kill()
        wait_until(lambda: has_changed(stack, before), START_LIMIT_S, "another producer is registered")
        wait_until(lambda: answers(stack.api_url + "/ready"), START_LIMIT_S, "the proxy sees it")
        again = post(stack.api_url + "/v1/completions", body)

        assert again["choices"][0]["token_ids"] == first["choices"][0]["token_ids"]
        assert metrics(stack.prefill_url)["vllm:external_prefix_cache_hits_total"] == whole_blocks(PROMPT_TOKENS)
        wait_until(lambda: told_by_the_proxy(stack) == (2, whole_blocks(PROMPT_TOKENS)), SAVED_LIMIT_S, "a miss, a hit")
        assert_every_panel_has_data(stack)


def assert_every_panel_has_data(stack: TinyStack) -> None:
    """Of the dashboard of the store, while new prompts come and are saved."""
    (port,) = free_ports(1)
    variables = {name.lower(): value for name, value in stack.variables.items()}
    fields = {name: value for name, value in variables.items() if name in StackSettings.model_fields}
    settings = StackSettings.model_validate(fields | {"prometheus_port": port})
    folder = stack.folder / "prometheus"
    folder.mkdir()
    asked = (completion(prompt) for number in itertools.count() for prompt in prompts(f"watched {number}", 100))
    empty: list[str] = []

    def none_is() -> bool:
        post(stack.api_url + "/v1/completions", next(asked))
        empty[:] = watch.without_data(panel_queries("store"))
        return not empty

    with watching(settings, folder) as watch:
        try:
            wait_until(none_is, SHOWN_LIMIT_S, "every panel has data")
        except AssertionError:
            raise AssertionError("without data: " + "; ".join(empty)) from None


def producer(stack: TinyStack) -> Instance:
    (found,) = (each for each in stack.records() if each.role == "prefill")
    return found


def has_changed(stack: TinyStack, before: str) -> bool:
    return [each.instance_id for each in stack.records() if each.role == "prefill" and each.instance_id != before] != []


def told_by_the_proxy(stack: TinyStack) -> tuple[float, float]:
    """Prompts of producers with a store, and how many of their tokens came from there."""
    found = metrics(stack.api_url)
    return found.get("pd_proxy_store_prompts_total", 0), found["pd_proxy_store_tokens_total"]


def is_idle(url: str) -> bool:
    post(url + "/v1/completions", {"model": "tiny", "prompt": [1], "max_tokens": 1})  # its figures are a step's
    return metrics(url)["vllm:kv_cache_usage_perc"] == 0
