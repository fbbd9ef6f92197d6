"""An error answer from the socket itself, for a request that no handler saw: counted, logged, and put into bytes."""

from collections.abc import Mapping

import structlog
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.errors import ProxyError, code, http_error
from proxy.http.cors import Cors
from proxy.request.request_id import taken_or_made

# Of the process, like the sockets: uvicorn makes the protocols, for whatever application there is.
REFUSED = Counter("pd_proxy_refused_at_the_socket", "Requests that no handler saw", ("code",), registry=None)

log = structlog.get_logger()


def refusal(error: ProxyError, given: Mapping[bytes, bytes], client: tuple[str, int] | None, cors: Cors) -> bytes:
    """The whole answer, head and body, after which the connection is closed.

    Args: given: the headers of the request, as far as they have come, by their names in small letters; client: its
    address and port.
    """
    REFUSED.labels(code(error)).inc()
    request_id = taken_or_made(given.get(b"x-request-id", b"").decode("latin-1"))
    log.info("refused at the socket", request_id=request_id, client=client, code=code(error), error=str(error))
    refused = http_error(error)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(refused.body)), "Connection": "close"}
    headers["X-Request-Id"] = request_id
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | dict(refused.headers)).items()).encode()
    lines += b"".join(b"%s: %s\r\n" % header for header in cors.headers(given.get(b"origin")))
    return STATUS_LINE[refused.status] + lines + b"\r\n" + refused.body
