"""What instances and proxy are asked, and what of it counts."""

import pytest

from benchmarks.errors import CannotStart
from benchmarks.store.conversations import counters
from benchmarks.store.conversations.counters import Counters
from benchmarks.whole_stack.stack_side import Target

INSTANCES = """{"instances": [
    {"url": "http://p", "role": "prefill"}, {"url": "http://p", "role": "prefill"},
    {"url": "http://d", "role": "decode"}
]}"""
SOURCE = "vllm:prompt_tokens_by_source_total"
OF_PRODUCER = f"""{SOURCE}{{engine="0",source="local_compute"}} 5.0
{SOURCE}{{engine="1",source="local_compute"}} 6.0
{SOURCE}{{engine="0",source="local_cache_hit"}} 7.0
{SOURCE}{{engine="0",source="external_kv_transfer"}} 8.0
"""
OF_PROXY = """# TYPE pd_proxy_store_tokens_total counter
pd_proxy_store_tokens_total 8.0
pd_proxy_store_prompts_total{result="hit"} 1.0
"""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = {
        "http://proxy/instances": INSTANCES,
        "http://proxy/metrics": OF_PROXY,
        "http://p/metrics": OF_PRODUCER,
        "http://d/metrics": OF_PRODUCER,
    }
    monkeypatch.setattr(counters, "_get", found.__getitem__)
    return found


def test_an_instance_of_several_engines_is_asked_once_and_counts_all(pages: dict[str, str]) -> None:
    found = counters.read(Target("http://proxy", 2))
    assert found.instances["http://p"] == ("prefill", {"local": 7, "external": 8, "computed": 11})
    assert found.proxy == {"loaded_tokens": 8, "hit": 1, "miss": 0}


def test_a_vllm_that_does_not_count_is_one_line(pages: dict[str, str]) -> None:
    pages["http://d/metrics"] = "vllm:prompt_tokens_total 5.0\n"
    with pytest.raises(CannotStart, match=f"http://d/metrics: no {SOURCE} of local_cache_hit: expected a vLLM that"):
        counters.read(Target("http://proxy", 2))


def counted(computed: int, url: str = "http://p") -> Counters:
    return Counters({url: ("prefill", {"local": 1, "external": 2, "computed": computed})}, {"hit": computed})


def test_only_what_was_gained_counts() -> None:
    gained = counted(9).since(counted(4))
    assert gained == {"tokens": {"prefill": {"local": 0, "external": 0, "computed": 5}}, "proxy": {"hit": 5}}


@pytest.mark.parametrize("before", [counted(10), counted(4, "http://another")])
def test_an_instance_that_is_not_the_same_any_more_spoils_the_measurement(before: Counters) -> None:
    with pytest.raises(CannotStart, match="http://p: was started anew"):
        counted(9).since(before)


def test_what_does_not_answer_is_one_line() -> None:
    with pytest.raises(CannotStart, match=r"http://127\.0\.0\.1:1/instances: .*refused"):
        counters.read(Target("http://127.0.0.1:1", 2))
