"""Puts our page under a tab of Locust's, and serves it.

Locust draws its page in React. `extended_tabs` adds a tab whose panel can hold nothing but a table; left without one it
stays empty, and a script that we add to Locust's page shows ours below it in a frame: neither page can break the other.
"""

from pathlib import Path

import plotly
from flask import Blueprint, Response, jsonify, request, send_file, send_from_directory
from locust.env import Environment
from locust.runners import WORKER_REPORT_INTERVAL, MasterRunner
from markupsafe import escape

from loadtest.live.feed import Feed
from loadtest.recording.recording import RunRecording

TITLE = "Latency & goodput"
KEY = "live"  # in the address of Locust's page: ?tab=live
_STATIC = Path(__file__).with_name("static")
_PLOTLY = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"
_SCRIPT = f'<script defer src="./live/tab.js" data-title="{escape(TITLE)}" data-page="./live/page.html"></script>'


def install_live_tab(environment: Environment, recording: RunRecording, console_port: int | None) -> None:
    """Once, after Locust has made its page and before it serves it. Headless there is none.

    Args: console_port: where the proxy's page is, on the host at which a browser has found this one.
    """
    web_ui = environment.web_ui
    if web_ui is None or web_ui.app is None:
        return
    feed = Feed(recording, WORKER_REPORT_INTERVAL if isinstance(environment.runner, MasterRunner) else 0.0)
    # Below --web-base-path and behind --web-login, as Locust's own routes are.
    routes = Blueprint("live", __name__, url_prefix=f"{web_ui.app.blueprints['locust'].url_prefix or ''}/live")

    @routes.get("/data")
    @web_ui.auth_required_if_enabled
    def data() -> Response:
        state = environment.runner.state if environment.runner else ""
        return jsonify({"state": state, "console_port": console_port, **feed.answer()})

    @routes.get("/plotly.min.js")
    @web_ui.auth_required_if_enabled
    def charts_library() -> Response:
        return send_file(_PLOTLY)

    @routes.get("/<name>")
    @web_ui.auth_required_if_enabled
    def static(name: str) -> Response:
        return send_from_directory(_STATIC, name)

    web_ui.app.register_blueprint(routes)
    web_ui.app.after_request(_add_script)
    web_ui.template_args.setdefault("extended_tabs", []).append({"title": TITLE, "key": KEY})


def _add_script(response: Response) -> Response:
    if request.endpoint == "locust.index" and response.status_code == 200:
        response.set_data(response.get_data(as_text=True).replace("</body>", f"{_SCRIPT}</body>"))
    return response
