"""compose reads `.env` as our reader does: the table of tests/unit/stack/configuration/test_env_file.py."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.env_file_cases import CASES, SHELL_VARIABLES

FILE = "services: {one: {image: none, environment: {X: }}}"


@pytest.mark.parametrize(("content", "value"), CASES.values(), ids=CASES.keys())
def test_what_compose_makes_of_a_line(content: bytes, value: str | None, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(FILE)
    (tmp_path / ".env").write_bytes(content)
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_CONFIG")}

    result = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=tmp_path,
        env=inherited | SHELL_VARIABLES,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode == 0) == (value is not None), result.stderr
    if value is not None:
        found = json.loads(result.stdout)["services"]["one"]["environment"]["X"]
        assert found.replace("$$", "$") == value
