"""The pages with the runs' files."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import flask
import pytest

from loadtest import report
from loadtest.recording import run_pages
from tests.unit.loadtest.made_records import answered
from tests.unit.loadtest.runs.test_run_folder import run_of


@pytest.fixture
def client(tmp_path: Path) -> Any:
    app = flask.Flask(__name__)
    app.register_blueprint(flask.Blueprint("locust", __name__))
    environment = Mock(web_ui=Mock(app=app, auth_required_if_enabled=lambda view: view))
    run_pages.install(environment, Mock(folder=None), tmp_path / "runs")
    return app.test_client()


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    report.write(folder, run_of(folder, [answered(0.0)]))


def test_no_run_yet(client: Any) -> None:
    assert "None yet" in client.get("/runs/").text


def test_every_file_of_a_run_is_linked_and_served(client: Any, tmp_path: Path) -> None:
    make(tmp_path / "runs" / "first & only")
    page = client.get("/runs/").text
    assert "first &amp; only" in page
    for name, kind in {
        "report.html": "text/html",
        "report.md": "text/plain",
        "run.json": "application/json",
        "requests.jsonl": "text/plain",
    }.items():
        assert f"/{name}" in page
        with client.get(f"/runs/first & only/{name}") as answer:
            assert answer.status_code == 200
            assert answer.mimetype == kind
            assert answer.data == (tmp_path / "runs" / "first & only" / name).read_bytes()


@pytest.mark.parametrize(
    "path", ["run/secret.txt", "../secret.txt", "..%2f/run.json", "other/run.json", "run/..%2frun.json"]
)
def test_nothing_else_is_served(client: Any, tmp_path: Path, path: str) -> None:
    make(tmp_path / "runs" / "run")
    (tmp_path / "runs" / "run" / "secret.txt").write_text("secret")
    (tmp_path / "run.json").write_text("secret")
    answer = client.get(f"/runs/{path}")
    assert answer.status_code in (308, 404)
    assert b"secret" not in answer.data
