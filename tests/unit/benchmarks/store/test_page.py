"""The page of a run, from its rows alone."""

from typing import Any

from benchmarks.store import page
from tests.unit.benchmarks.conftest import ABOUT


def row(stage: str, route: str, ttft_s: float, store_tokens: int = 0, **more: Any) -> dict[str, Any]:
    common = {"stage": stage, "prompt_tokens": 2000, "route": route, "ttft_s": ttft_s}
    return {**common, "local_tokens": 0, "store_tokens": store_tokens, **more}


ROWS = [
    row("first start", "store off", 6.0, same_token=True),
    row("first start", "store off", 8.0),
    row("first start", "nothing to find", 7.07),
    row("first start", "from the store", 0.3, 1984, same_token=True),
    row("first start", "from the store", 0.5, 1984, same_token=False),
    row("first start", "from the store", 6.0, 0, failed="0 in the store"),
    row("after a restart", "store off", 10.0),
    row("after a restart", "from the store", 0.5, 1984),
]


def render(**tables: list[dict[str, Any]]) -> str:
    return page.render({**ABOUT, "ended": "complete", **tables}, "run.json")


def test_each_ratio_is_to_the_same_stage_and_failed_requests_count_for_nothing() -> None:
    lines = render(ttft=ROWS).splitlines()
    assert "| first start | 2,000 | store off | 7000.0 | 6000.0 to 8000.0 |  | 0 | 0 | 1 of 1 | 2 |" in lines
    assert "| first start | 2,000 | nothing to find | 7070.0 | 7070.0 to 7070.0 | 1.010 | 0 | 0 |  | 1 |" in lines
    loaded = "| 400.0 | 300.0 to 500.0 | 0.057 | 0 | 0 / 1,984 | 1 of 2 | 3, 1 failed |"
    assert f"| first start | 2,000 | from the store {loaded}" in lines
    assert "| after a restart | 2,000 | from the store | 500.0 | 500.0 to 500.0 | 0.050 | 0 | 1,984 |  | 1 |" in lines
    assert "- 1 × from the store: 0 in the store" in lines


def test_what_the_store_had_to_evict_is_said() -> None:
    found = {"capacity_bytes": 4 << 30, "keys": 1200, "evicted_keys": 0}
    assert "At the end the store of 4,096 MiB held 1,200 keys, none evicted." in render(ttft=ROWS, store=[found])
    evicted = render(ttft=ROWS, store=[{**found, "evicted_keys": 60}])
    assert "held 1,200 keys, 60 keys had to make room for others." in evicted


def test_a_route_of_which_every_request_failed_has_no_time() -> None:
    lines = render(ttft=[row("first start", "store off", 1.0, failed="gone")]).splitlines()
    assert "| first start | 2,000 | store off |  |  |  | 0 | 0 |  | 1, 1 failed |" in lines
