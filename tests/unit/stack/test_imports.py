"""Imports inside the stack run one way, from the top of the house to its ground (tests/unit/floors.py)."""

from graphlib import TopologicalSorter
from pathlib import Path

import stack
from tests.unit.floors import Floors, full, other_packages, parts, read, rooms, upward

FLOORS: Floors = (
    (("__main__",),),
    (("doctor",), ("lock",), ("prepare",), ("ratio",)),
    (("diagnosis",),),
    (("install",), ("running",)),
    (("installation",), ("instances",)),
    (("store",),),
    (("host",),),
    (("configuration",), ("health",)),
    (("etcd",),),
    (("network",), ("cdi",)),
)

FOLDER = Path(stack.__file__).parent
IMPORTS = read(FOLDER)


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert parts(IMPORTS) == set(rooms(FLOORS))


def test_imports_run_downward() -> None:
    assert upward(IMPORTS, FLOORS) == []


def test_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_folder_is_full() -> None:
    assert full(FOLDER) == []


def test_every_other_part_may_build_on_it() -> None:
    assert other_packages(FOLDER) == set()
