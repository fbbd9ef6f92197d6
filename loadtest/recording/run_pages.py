"""The runs' files on Locust's own port: /runs lists them, /runs/RUN/FILE is one of them.

A container's volume is no place where a person looks; the report opens in the browser, the rest can be saved from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, abort, send_from_directory
from markupsafe import Markup

from loadtest.runs.run_folder import FILES, RUN

if TYPE_CHECKING:  # importing locust replaces sockets and threads of the whole process by gevent's
    from locust.env import Environment

    from loadtest.recording.recording import RunRecording

_SHOWN_AS = {".md": "text/plain", ".jsonl": "text/plain"}
_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Runs</title>
<style>
body {{ margin: 0 auto; padding: 24px; max-width: 900px; font: 15px/1.6 system-ui, sans-serif; color: #1e293b; }}
td {{ padding: 2px 20px 2px 0; }}
</style>
</head>
<body>
<h1>Runs</h1>
{runs}
</body>
</html>
""")


def install(environment: Environment, recording: RunRecording, runs_dir: Path) -> None:
    """Once, before Locust serves its page; headless there is none.

    Args: runs_dir: where runs are kept; the form may have put the last one elsewhere, with others beside it.
    """
    web_ui = environment.web_ui
    if web_ui is None or web_ui.app is None:
        return
    # Below --web-base-path and behind --web-login, as Locust's own routes are.
    routes = Blueprint("runs", __name__, url_prefix=f"{web_ui.app.blueprints['locust'].url_prefix or ''}/runs")

    def folders() -> list[Path]:
        return runs_in(recording.folder.parent if recording.folder else runs_dir)

    @routes.get("/")
    @web_ui.auth_required_if_enabled
    def runs() -> str:
        return str(_PAGE.format(runs=_table(folders())))

    @routes.get("/<run>/<name>")
    @web_ui.auth_required_if_enabled
    def file(run: str, name: str) -> Response:
        folder = next((folder for folder in folders() if folder.name == run), None)
        if folder is None or name not in FILES:
            abort(404)
        return send_from_directory(folder, name, mimetype=_SHOWN_AS.get(Path(name).suffix))

    web_ui.app.register_blueprint(routes)


def runs_in(runs_dir: Path) -> list[Path]:
    """The folders of runs, the newest first."""
    found = [folder for folder in runs_dir.iterdir() if (folder / RUN).is_file()] if runs_dir.is_dir() else []
    return sorted(found, key=lambda folder: (folder / RUN).stat().st_mtime, reverse=True)


def _table(folders: list[Path]) -> Markup:
    if not folders:
        return Markup("<p>None yet: a run's files appear here when it begins.</p>")
    rows = (
        Markup("<tr><td>{}</td><td>{}</td></tr>").format(
            folder.name,
            Markup(" · ").join(
                Markup('<a href="./{}/{}">{}</a>').format(folder.name, name, name)
                for name in FILES
                if (folder / name).exists()
            ),
        )
        for folder in folders
    )
    return Markup("<table>{}</table>").format(Markup().join(rows))
