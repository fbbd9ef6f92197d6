"""Imports between the connector's folders run one way, and most of it needs neither vLLM, torch nor Mooncake."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import connector
from tests.unit.floors import full

FOLDER = Path(connector.__file__).parent
# Each may import those behind it.
FLOORS = [
    "store",
    "vllm_hooks",
    "instance",
    "transfer",
    "scheduling",
    "first_token",
    "telling",
    "mooncake",
    "control",
    "cache",
]
# These are vLLM's side: only an engine process imports them.
WITH_VLLM = {
    "store.connectors",
    "store.metrics",
    "store.moving.gpu_copies",
    "vllm_hooks.kv_connector",
    "vllm_hooks.metadata",
    "vllm_hooks.rank",
    "cache.movable",
    "cache.vllm_cache",
    "first_token.scheduler",
    "telling.metrics",
    "mooncake.fences",
}
FOUND = {".".join(file.relative_to(FOLDER).with_suffix("").parts) for file in FOLDER.rglob("*.py")}
MODULES = sorted(name for name in FOUND - WITH_VLLM if not name.endswith("__init__"))
PROGRAM = """
import sys, importlib
for name in sys.argv[1].split():
    sys.modules[name] = None  # importing it raises ImportError
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def imported(file: Path) -> set[str]:
    """Modules of this repository that the file names, for type checking only or not."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_a_folder_imports_only_what_lies_below_it(floor: str) -> None:
    above = {f"connector.{name}" for name in FLOORS[: FLOORS.index(floor)]}
    upward = {
        (file.name, name)
        for file in (FOLDER / floor).rglob("*.py")
        for name in imported(file)
        if ".".join(name.split(".")[:2]) in above
    }
    assert not upward


def test_no_folder_is_full() -> None:
    assert full(FOLDER) == []


def test_every_folder_is_a_floor() -> None:
    assert {name.split(".")[0] for name in FOUND - {"__init__"}} == set(FLOORS)


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ([f"connector.{name}" for name in MODULES], "vllm torch mooncake"),
        (["connector.transfer.producer"], "vllm torch mooncake"),
        (["connector.instance.launcher"], "vllm torch mooncake"),
        (["connector.instance.registration"], "vllm torch mooncake"),
        # The doctor reads them, in an environment of its own.
        (["stack.instances.settings"], "vllm torch mooncake zmq grpc etcd3"),
    ],
    ids=["all", "producer", "launcher", "registration", "settings"],
)
def test_it_imports_without(names: list[str], absent: str) -> None:
    root = FOLDER.parent
    command = [sys.executable, "-c", PROGRAM, absent, *names]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
