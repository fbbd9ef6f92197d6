"""The scripted fleet and the page of its benchmark."""

import pytest

from benchmarks.fleet import page
from benchmarks.fleet.options import parse
from benchmarks.fleet.records import fleet
from benchmarks.proxy.upstreams.answers import MODEL
from proxy.routing.dispatch import SPLIT_ALL, Demand, choose
from tests.unit.benchmarks.conftest import ABOUT


def test_every_instance_is_one_of_its_own_and_all_pair() -> None:
    instances = fleet(1000, 8000)
    assert len({each.url for each in instances}) == len({each.key for each in instances}) == 1000
    assert choose(instances, {}, {}, Demand(MODEL), SPLIT_ALL).reason == "disaggregated"


def test_an_odd_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["routes", "--instances", "2,11"])
    assert "--instances=11: expected an even number" in capsys.readouterr().err


def test_the_page_has_what_was_measured_and_no_more() -> None:
    routes = [{"instances": 1000, "chosen_us": [100.0, 300.0], "counted_us": [20.0, 40.0]}]
    status = [{"instances": 1000, "path": "/metrics", "bytes": 377_000, "seconds": [0.1, 0.3, 0.2]}]
    text = page.render({**ABOUT, "ended": "complete", "routes": routes, "status": status}, "run.json")
    assert "| 1,000 | 200 | 298 | 30 | 40 |  |" in text
    assert "| 1,000 | `/metrics` | 377.0 | 200.0 | 300.0 |" in text
    assert "## Discovery" not in text
