"""Imports inside the load test run one way, from the top of the house to its ground (tests/unit/floors.py)."""

from graphlib import TopologicalSorter
from pathlib import Path

import loadtest
from tests.unit.floors import Floors, full, other_packages, parts, read, rooms, upward

FLOORS: Floors = (
    (("__main__",), ("locustfile",)),
    (("live",),),
    (("recording",),),
    (("report",),),
    (("runs",), ("sending",)),
    (("options",), ("workloads",)),
    (("settings",),),
    (("stages",), ("lengths",), ("figures",), ("completion",)),
    (("errors",),),
)

FOLDER = Path(loadtest.__file__).parent
IMPORTS = read(FOLDER)


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert parts(IMPORTS) == set(rooms(FLOORS))


def test_imports_run_downward() -> None:
    assert upward(IMPORTS, FLOORS) == []


def test_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_folder_is_full() -> None:
    assert full(FOLDER) == []


def test_it_knows_servers_over_http_only() -> None:
    assert other_packages(FOLDER) == {"stack"}
