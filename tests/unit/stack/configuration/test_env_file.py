"""`.env`: who wins, and which lines are no assignments; `.env.example`: the same defaults as the settings classes."""

import os
import re
from pathlib import Path

import pytest

from stack.configuration import env_file
from stack.configuration.env_file import Entry
from stack.configuration.environment import ConfigError
from stack.configuration.settings import REPOSITORY
from stack.diagnosis.facts import settings_classes
from stack.running.ports import STAND_INS
from tests.env_file_cases import CASES, SHELL_VARIABLES

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

    assert env_file.applied() == ()


@pytest.mark.parametrize(("content", "value"), CASES.values(), ids=CASES.keys())
def test_a_value_is_what_compose_makes_of_it(content: bytes, value: str | None, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(content)

    found = list(env_file.entries(file, SHELL_VARIABLES))

    assert any(entry.problem for entry in found) == (value is None)
    if value is not None:
        assert {entry.name: entry.value for entry in found}["X"] == value


def test_a_nul_byte_is_no_value_of_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text('A="\\0000"\n')

    assert [entry.problem for entry in env_file.entries(file, {})] == ["expected a value without a NUL byte"]


def test_entries_keep_lines_that_are_no_assignment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nMODEL=x\nwhat is this?\nexport PROXY_PORT=1\nA=${}\nB='\nMODEL=$C\n=1\n")

    assert list(env_file.entries(file, {})) == [
        Entry(3, "MODEL", "MODEL=x", "x"),
        Entry(4, None, "what is this?", problem="expected NAME=value"),
        Entry(5, "PROXY_PORT", "export PROXY_PORT=1", "1"),
        Entry(6, "A", "A=${}", problem="expected ${NAME}, or $$ for a dollar sign"),
        Entry(7, "B", "B='", problem="expected another ' at the end of the value"),
        Entry(8, "MODEL", "MODEL=$C", "", unset=("C",)),
        Entry(9, None, "=1", problem="expected NAME=value"),
    ]


def test_a_file_that_compose_would_refuse_is_refused_and_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("PROXY_API_KEYS=alice:${}secret\nsecret words\nPROXY API KEYS=secret\nMODEL=x\n")
    monkeypatch.setenv("STACK_ENV_FILE", str(file))
    monkeypatch.delenv("MODEL", raising=False)

    with pytest.raises(ConfigError) as refused:
        env_file.apply()

    assert refused.value.lines == [
        f"{file}:1: PROXY_API_KEYS: expected ${{NAME}}, or $$ for a dollar sign",
        f"{file}:2: a line without =: expected NAME=value",
        f"{file}:3: 'PROXY API KEYS=...': expected NAME=value",
    ]
    assert "MODEL" not in os.environ


def test_what_was_unset_when_the_file_was_read_is_known_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text("FIRST_OF_TWO=$SECOND_OF_TWO\nSECOND_OF_TWO=x\n")
    monkeypatch.setenv("STACK_ENV_FILE", str(file))
    for name in ("FIRST_OF_TWO", "SECOND_OF_TWO"):
        monkeypatch.setenv(name, "set, so that monkeypatch puts it back")
        monkeypatch.delenv(name)

    env_file.apply()

    assert [entry.unset for entry in env_file.applied()] == [("SECOND_OF_TWO",), ()]


def documented(folder: Path) -> dict[str, str]:
    """What `.env` holds once every commented-out line of the example is made active."""
    file = folder / "active"
    file.write_text(re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", EXAMPLE, flags=re.MULTILINE))
    return {str(entry.name): entry.value or "" for entry in env_file.entries(file, {})}


def test_the_example_sets_nothing_until_a_line_is_uncommented() -> None:
    assert list(env_file.entries(REPOSITORY / ".env.example", {})) == []


def test_the_example_names_each_variable_once() -> None:
    names = re.findall(r"^#([A-Z][A-Z0-9_]*)=", EXAMPLE, flags=re.MULTILINE)

    assert len(names) == len(set(names))
    assert env_file.known_names() == set(names)


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_default_of_the_example_is_the_programs_own(
    settings: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fields = settings.model_fields  # type: ignore[attr-defined]
    example = documented(tmp_path)
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
