"""Imports inside the proxy run one way, from the top of the house to its ground, also those for type checkers only."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import proxy

# Top to bottom: what is in a room may import what is in the same room and on lower floors, never what is beside it.
FLOORS = (
    (("__main__", "server", "app", "completion_connection", "status", "console"),),
    (("exchange",),),
    (("telemetry",),),
    (("verdict",),),
    (("instances",),),
    (("settings",),),
    (("routing",), ("connection",)),
    (("http",), ("request",)),
    (("errors",),),
)
ROOMS = {name: (floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms for name in room}
MOST_FILES = 12  # in one folder, without __init__.py


def imported(source: str, modules: Mapping[str, object]) -> Iterator[str]:
    """Those of `modules` that `source` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                yield from (name for name in (f"{node.module}.{alias.name}", node.module) if name in modules)


def read(folder: Path) -> dict[str, set[str]]:
    """Each module of a package, without the package's name, and which others it imports."""
    sources = {
        ".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): file.read_text()
        for file in folder.rglob("*.py")
    }
    prefix = folder.name + "."
    return {
        name.removeprefix(prefix): {
            each.removeprefix(prefix) for each in imported(source, sources) if each.startswith(prefix)
        }
        for name, source in sources.items()
        if name != folder.name
    }


def upward(imports: Mapping[str, set[str]]) -> list[str]:
    """Imports of what is not below, in words."""
    found = []
    for importer, others in imports.items():
        floor, room = ROOMS[importer.partition(".")[0]]
        for other in others:
            other_floor, other_room = ROOMS[other.partition(".")[0]]
            if other_room != room and other_floor <= floor:
                found.append(f"{importer} imports {other}")
    return sorted(found)


FOLDER = Path(proxy.__file__).parent
IMPORTS = read(FOLDER)


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert {name.partition(".")[0] for name in IMPORTS} == set(ROOMS)


def test_imports_run_downward() -> None:
    assert upward(IMPORTS) == []


def test_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


def test_no_folder_is_full() -> None:
    files = Counter(file.parent.name for file in FOLDER.rglob("*.py") if file.name != "__init__.py")
    assert [folder for folder, count in files.items() if count > MOST_FILES] == []


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
    assert upward(found) == ["telemetry.request_facts imports exchange.attempt"]
    with pytest.raises(CycleError):
        TopologicalSorter(found).prepare()
