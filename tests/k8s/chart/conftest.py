"""helm, and the validators of what it renders. No cluster is needed, and no root."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.k8s import packages
from tests.k8s.chart.rendering import Helm, Object

VALIDATE = Path(__file__).parent / "validate.py"
LIMIT_S = 120
Faults = Callable[..., list[str]]


@pytest.fixture(scope="session")
def helm() -> Helm:
    given = os.environ.get("K8S_PROGRAMS")
    return Helm((Path(given) if given else packages.clients(packages.cache())) / "helm")


@pytest.fixture(scope="session")
def faults() -> Faults:
    """What published schemas find wrong with objects: (objects, versions of Kubernetes) -> lines."""
    folder = packages.validators(packages.cache())

    def found(objects: list[Object], *versions: str) -> list[str]:
        answer = subprocess.run(
            [sys.executable, str(VALIDATE), *versions],
            input=yaml.safe_dump_all(objects),
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert not answer.stderr, answer.stderr
        return answer.stdout.split("\n")[:-1] if answer.returncode else []

    return found
