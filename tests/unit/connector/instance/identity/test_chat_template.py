"""Templates that print the time of day, which makes two prompts of one request."""

import json
import shlex
from pathlib import Path

import pytest

from connector.instance.identity.chat_template import clock_in_template
from stack.installation import hub


def template(form: str) -> str:
    return "{{- 'Today is ' }}{%- set now = strftime_now(" + json.dumps(form) + ") %}{{ now }}"


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("%H:%M:%S", True),
        ("%f", True),
        ("%-I o'clock", True),
        ("%c", True),
        ("%d %b %Y", False),
        ("%Y-%m-%d, 100 %% of it Hot", False),
    ],
)
def test_which_formats_do(tmp_path: Path, form: str, told: bool) -> None:
    (tmp_path / "chat_template.jinja").write_text(template(form))
    assert clock_in_template(str(tmp_path), "") == (form if told else "")


def test_where_a_template_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock_in_template(str(tmp_path), "") == ""
    named = [{"name": "default", "template": template("%H")}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert clock_in_template(str(tmp_path), "") == "%H"
    file = tmp_path / "mine.jinja"
    file.write_text(template("%S"))
    assert clock_in_template(str(tmp_path), f"--chat-template {file}") == "%S"
    assert clock_in_template(str(tmp_path), f"--chat_template={shlex.quote(template('%T'))}") == "%T"
    assert clock_in_template(str(tmp_path), "--chat-template={{messages}}") == ""
    monkeypatch.setattr(hub, "cached", lambda model: tmp_path)
    assert clock_in_template("some/model", "") == "%H"
