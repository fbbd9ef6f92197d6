"""A package as a house: what is in a room may import what is in the same room and on lower floors, never what is
beside it. Imports count wherever they stand, also those for type checkers only."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

# Top to bottom. A floor has rooms; in a room are folders, and modules of the package's own folder.
Floors = tuple[tuple[tuple[str, ...], ...], ...]
MOST_FILES = 12  # in one folder, without __init__.py


def imported(source: str) -> Iterator[tuple[str, ...]]:
    """For each name that `source` imports the modules that this may be of; the first one that exists is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def read(folder: Path) -> dict[str, set[str]]:
    """Each module of a package, without the package's name, and which others it imports."""
    sources = {
        ".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"): file.read_text()
        for file in folder.rglob("*.py")
    }
    prefix = folder.name + "."
    return {
        name.removeprefix(prefix): {
            found.removeprefix(prefix)
            for names in imported(source)
            if (found := next((each for each in names if each in sources), folder.name)) != folder.name
        }
        for name, source in sources.items()
        if name != folder.name
    }


def parts(imports: Mapping[str, set[str]]) -> set[str]:
    """The folders of a package, and the modules of its own folder."""
    return {name.partition(".")[0] for name in imports}


def rooms(floors: Floors) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Floor and room of each part."""
    return {name: (floor, room) for floor, beside in enumerate(floors) for room in beside for name in room}


def upward(imports: Mapping[str, set[str]], floors: Floors) -> list[str]:
    """Imports of what is not below, in words."""
    found = []
    where = rooms(floors)
    for importer, others in imports.items():
        floor, room = where[importer.partition(".")[0]]
        for other in others:
            other_floor, other_room = where[other.partition(".")[0]]
            if other_room != room and other_floor <= floor:
                found.append(f"{importer} imports {other}")
    return sorted(found)


def full(folder: Path) -> list[str]:
    """Folders of a package with too many files to be taken in at once."""
    files = Counter(str(file.parent) for file in folder.rglob("*.py") if file.name != "__init__.py")
    return sorted(name for name, count in files.items() if count > MOST_FILES)


def other_packages(folder: Path) -> set[str]:
    """Those of this repository that a package imports."""
    packages = {file.parent.name for file in folder.parent.glob("*/__init__.py")} - {folder.name}
    first = {names[-1].partition(".")[0] for file in folder.rglob("*.py") for names in imported(file.read_text())}
    return first & packages
