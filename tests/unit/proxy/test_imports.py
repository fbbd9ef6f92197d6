"""Imports inside the proxy run one way, from the top of the house to its ground (tests/unit/floors.py)."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import proxy
from tests.unit.floors import Floors, full, parts, read, rooms, upward

FLOORS: Floors = (
    (("__main__", "server", "app", "completion_connection", "status", "console"),),
    (("exchange",),),
    (("ratio",),),
    (("telemetry",),),
    (("verdict",),),
    (("instances",),),
    (("settings",),),
    (("routing",), ("connection",)),
    (("http",), ("request",)),
    (("errors",),),
)

FOLDER = Path(proxy.__file__).parent
IMPORTS = read(FOLDER)


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert parts(IMPORTS) == set(rooms(FLOORS))


def test_imports_run_downward() -> None:
    assert upward(IMPORTS, FLOORS) == []


def test_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_folder_is_full() -> None:
    assert full(FOLDER) == []


@pytest.mark.parametrize(
    "line",
    [
        "from proxy.exchange.attempt import Attempt",
        "from proxy.exchange import attempt",
        "import proxy.exchange.attempt",
        "if TYPE_CHECKING:\n    from proxy.exchange.attempt import Attempt",
        "def later() -> None:\n    from proxy.exchange.attempt import Attempt",
    ],
)
def test_what_counts_as_an_import(line: str, tmp_path: Path) -> None:
    package = tmp_path / "proxy"
    for name, source in (
        ("telemetry/request_facts", line),
        ("exchange/attempt", "from proxy.telemetry import request_facts"),
    ):
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(source)
    found = read(package)
    assert upward(found, FLOORS) == ["telemetry.request_facts imports exchange.attempt"]
    with pytest.raises(CycleError):
        TopologicalSorter(found).prepare()
