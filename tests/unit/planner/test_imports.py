"""Imports inside the planner run one way (tests/unit/floors.py): what is simulated knows nothing of who asks."""

from graphlib import TopologicalSorter
from pathlib import Path

import planner
from tests.unit.floors import Floors, full, parts, read, rooms, upward

FLOORS: Floors = (
    (("sizing",), ("fit", "step_fit")),
    (("profile",),),
    (("simulation",),),
    (("trace",),),
)

FOLDER = Path(planner.__file__).parent
IMPORTS = read(FOLDER)


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert parts(IMPORTS) == set(rooms(FLOORS))


def test_imports_run_downward_and_in_no_circle() -> None:
    assert upward(IMPORTS, FLOORS) == []
    TopologicalSorter(IMPORTS).prepare()


def test_no_folder_is_full() -> None:
    assert full(FOLDER) == []


def test_the_simulation_measures_and_starts_nothing() -> None:
    """It knows of the proxy's own functions and of what an instance's record is, and of nothing else."""
    sources = "".join(file.read_text() for file in (FOLDER / "simulation").rglob("*.py"))
    lines = [line for line in sources.splitlines() if line.startswith(("from ", "import "))]
    known = ("from planner.", "from proxy.routing.", "from proxy.request.prompt", "from stack.instances.record")
    library = ("collections", "dataclasses", "functools", "itertools", "typing", "heapq", "math", "bisect", "random")
    others = [line for line in lines if not line.startswith(known) and line.split()[1].split(".")[0] not in library]
    assert others == []
