"""The Quart application: which path does what. All state is in the `Gateway` that lives while the app serves.
Completions pass Quart by: `proxy.completion_connection`.

Every function is a coroutine, also those that never wait: Quart runs a plain function in a thread.
"""

from collections.abc import AsyncGenerator

import structlog
from quart import Quart, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from proxy.completion_connection import CompletionConnection
from proxy.console.routes import DATA, console_routes
from proxy.errors import DEFECT, Unauthorized, error_body, http_error
from proxy.exchange.gateway import Follow, Gateway, open_gateway
from proxy.http.slashes import without_slashes
from proxy.instances.discovery import Discovery
from proxy.request.endpoints import ENDPOINTS
from proxy.request.request_id import taken_or_made
from proxy.settings import ProxySettings
from proxy.status import status_routes

# What says something of models and servers, to HEAD too. A scraper and a health check need none.
KEY_NEEDED = ("/v1/", "/instances", DATA)

log = structlog.get_logger()


def create_app(settings: ProxySettings, follow: Follow = Discovery) -> Quart:
    app = Quart(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.proxy_max_body_bytes
    app.config["BODY_TIMEOUT"] = settings.proxy_body_timeout_s
    app.config["RESPONSE_TIMEOUT"] = None  # the proxy has deadlines of its own
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["cors"] = settings.cors
    app.url_map.merge_slashes = False  # or it answers `/v1//models` with a redirect, where vLLM knows no such path

    @app.while_serving
    async def lifespan() -> AsyncGenerator[None, None]:
        async with open_gateway(settings, follow) as gateway:
            app.extensions["gateway"] = gateway
            yield

    def gateway() -> Gateway:
        running: Gateway = app.extensions["gateway"]
        return running

    @app.before_request
    async def take_or_make_request_id() -> None:
        g.request_id = taken_or_made(request.headers.get("X-Request-Id", ""))

    @app.before_request
    async def ask_for_the_key() -> Response | None:
        """Completions ask for it themselves, so that a refusal is counted and logged as their other refusals are."""
        if request.method != "POST" and request.path.startswith(KEY_NEEDED):
            try:
                settings.client_keys.name_of(request.headers.get("Authorization"), request.headers.get("x-api-key"))
            except Unauthorized as error:
                refusal = http_error(error)
                return Response(refusal.body, refusal.status, dict(refusal.headers), mimetype="application/json")
        return None

    @app.before_request
    async def know_no_path_with_two_slashes_first() -> None:
        if request.scope["path"].startswith("//"):  # Werkzeug leaves all but one out
            raise NotFound

    @app.after_request
    async def return_request_id(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        return response

    @app.errorhandler(HTTPException)
    async def refused_by_quart(error: HTTPException) -> Response:
        if isinstance(error, NotFound):
            bare = without_slashes(request.scope["path"], request.query_string, app.url_map)
            if bare is not None:
                redirect = Response(b"", 307, {"Location": bare})
                del redirect.headers["Content-Type"]
                return redirect
        status = error.code or 500
        name = error.name.lower().replace(" ", "_")
        what = f"{request.method} {request.path}: {error.name}."
        allowed = error.valid_methods if isinstance(error, MethodNotAllowed) else None
        headers = {"Allow": ", ".join(sorted(allowed))} if allowed else {}
        return Response(error_body(status, what, name), status, headers, mimetype="application/json")

    @app.errorhandler(Exception)
    async def broken(error: Exception) -> Response:
        log.error("internal error", request_id=g.request_id, path=request.path, exc_info=error)
        body = error_body(500, DEFECT, "internal_error")
        return Response(body, 500, mimetype="application/json")

    app.asgi_http_class = CompletionConnection
    for endpoint in ENDPOINTS:  # for the 405 of other methods: a POST does not come here
        app.add_url_rule(endpoint.path, endpoint.path, methods=["POST"])
    app.register_blueprint(status_routes(gateway))
    app.register_blueprint(console_routes(gateway))
    return app
