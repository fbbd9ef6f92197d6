"""`.env`: who wins, and which lines are no assignments; `.env.example`: the same defaults as the settings classes."""

import io
import os
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from stack import env_file
from stack.facts import STAND_INS, settings_classes
from stack.settings import REPOSITORY

EXAMPLE = (REPOSITORY / ".env.example").read_text()
# Their default depends on other variables or on the way the stack runs, so the example shows them empty.
DERIVED = {"ETCD_ENDPOINT", "MODEL_DIR", "STACK_KEY_FILE"}


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("MODEL=from-file\nPROXY_PORT=1234  # a comment\n")
    monkeypatch.setenv("STACK_ENV_FILE", str(file))
    monkeypatch.setenv("MODEL", "from-environment")
    monkeypatch.setenv("PROXY_PORT", "set, so that monkeypatch puts it back")
    monkeypatch.delenv("PROXY_PORT")

    env_file.apply()

    assert (os.environ["MODEL"], os.environ["PROXY_PORT"]) == ("from-environment", "1234")


def test_an_absent_file_is_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACK_ENV_FILE", str(tmp_path / "nothing"))
    env_file.apply()

    assert list(env_file.entries(env_file.path())) == []


def test_entries_keep_lines_that_are_no_assignment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nMODEL=x\nwhat is this?\nexport PROXY_PORT=1\n")

    assert list(env_file.entries(file)) == [
        (3, "MODEL", "MODEL=x"),
        (4, None, "what is this?"),
        (5, "PROXY_PORT", "export PROXY_PORT=1"),
    ]


def documented() -> dict[str, str]:
    """What `.env` holds once every commented-out line of the example is made active."""
    active = re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", EXAMPLE, flags=re.MULTILINE)
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(active)).items()}


def test_the_example_sets_nothing_until_a_line_is_uncommented() -> None:
    assert list(env_file.entries(REPOSITORY / ".env.example")) == []


def test_the_example_names_each_variable_once() -> None:
    names = re.findall(r"^#([A-Z][A-Z0-9_]*)=", EXAMPLE, flags=re.MULTILINE)

    assert len(names) == len(set(names))
    assert env_file.known_names() == set(names)


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_default_of_the_example_is_the_programs_own(settings: type, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = settings.model_fields  # type: ignore[attr-defined]
    example = documented()
    missing = {name.upper() for name in fields} - set(example)
    assert missing == set()
    for name in fields:
        monkeypatch.delenv(name.upper(), raising=False)
    required = {name: value for name, value in STAND_INS.items() if name in fields}
    own = settings(**required)

    for name in fields:
        monkeypatch.setenv(name.upper(), example[name.upper()])
    from_example = settings(**required)

    assert from_example == own
    undocumented = {
        name.upper()
        for name, field in fields.items()
        if not field.is_required() and field.default and not example[name.upper()]
    }
    assert undocumented <= DERIVED


def test_every_variable_of_the_compose_files_is_in_the_example() -> None:
    used = {
        name
        for file in REPOSITORY.glob("compose*.yaml")
        for name in re.findall(r"\$\{([A-Z][A-Z0-9_]*)", file.read_text())
    }

    assert used <= env_file.known_names()
