"""What can go wrong with a client's request, named after what can be done about it.

ProxyError
├── RequestRefused            the client has to change the request
│   ├── BadRequest
│   ├── Unauthorized          no client key, or one that is not known
│   ├── ModelNotFound
│   ├── HeadTooLarge
│   ├── HeadTooSlow
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   ├── UnsupportedCoding     the body is compressed in a way that is not known here
│   └── RejectedByInstance    a leg's own 4xx, or 501: its status and its body are the client's answer
├── Wait                      the same request can work a little later
│   ├── NoInstance            neither a pair nor an aggregated instance for the model
│   ├── TooBusy               the queue is full
│   ├── TooManyConnections
│   ├── SloUnreachable        the first token would come later than it is of use
│   └── ShuttingDown          this proxy is on its way out
├── LegFailed                 another instance may do better; if there is none, the client learns which leg failed
│   ├── InstanceUnreachable
│   ├── InstanceBusy          it has as much to do as it takes: its 429 or 503 is the client's answer
│   ├── InstanceError         it answered 5xx, which is the client's answer, or refused the proxy's own key
│   ├── AnswerBroken          its connection broke in the middle of its answer
│   ├── AnswerUnfinished      it ended its answer before its end
│   └── AnswerStalled         it sends no more of it
└── DeadlinePassed            nothing more to try within the time that was allowed

`http_error` alone decides the HTTP status.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stack.instances.record import Role

# A crashed instance's lease ends, and a restarted one registers, within a few seconds.
RETRY_AFTER_S = 5
# vLLM does not say when; a busy instance has room again as soon as one of its requests ends.
BUSY_RETRY_AFTER = "1"
DEFECT = "The proxy has a defect; its log has the details."


class ProxyError(Exception):
    """Base of all; the text is what the client reads."""


class RequestRefused(ProxyError):
    pass


class BadRequest(RequestRefused):
    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unauthorized(RequestRefused):
    pass


class ModelNotFound(RequestRefused):
    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model}` does not exist.")  # as vLLM says it
        self.param = "model"


class HeadTooLarge(RequestRefused):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's headers are larger than {limit} bytes.")


class HeadTooSlow(RequestRefused):
    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The request's headers did not arrive within {limit_s:g} s.")


class BodyTooLarge(RequestRefused):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.")


class BodyTooSlow(RequestRefused):
    pass


class UnsupportedCoding(RequestRefused):
    def __init__(self, header: str, known: Collection[str]) -> None:
        self.known = ", ".join(known)
        super().__init__(f"Content-Encoding: {header[:100]!r}: expected {self.known} or identity.")


class RejectedByInstance(RequestRefused):
    """`body` is the instance's own, already in OpenAI's form."""

    def __init__(self, status: int, body: bytes, retry_after: str | None) -> None:
        super().__init__(f"rejected with {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after


class Wait(ProxyError):
    """`retry_after_s`: when it is worth trying again."""

    retry_after_s: float = RETRY_AFTER_S


class NoInstance(Wait):
    def __init__(self, missing: tuple[Role, ...], reason: str) -> None:
        super().__init__(reason)
        self.missing = missing

    def while_blocked(self, instance_ids: Collection[str], retry_after_s: float) -> "NoInstance":
        """The same, where these instances are left alone for a while because they kept failing."""
        blocked = NoInstance(self.missing, f"{self} Left alone after failures: {', '.join(sorted(instance_ids))}.")
        blocked.retry_after_s = retry_after_s
        return blocked


class TooBusy(Wait):
    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class TooManyConnections(Wait):
    def __init__(self) -> None:
        super().__init__("Too many connections are open.")


class SloUnreachable(Wait):
    def __init__(self, predicted_s: float, slo_s: float, retry_after_s: float) -> None:
        super().__init__(f"The first token would take about {predicted_s:.1f} s, and {slo_s:g} s is the limit.")
        self.retry_after_s = retry_after_s


class ShuttingDown(Wait):
    def __init__(self) -> None:
        super().__init__("The proxy is shutting down.")


class LegFailed(ProxyError):
    """`cause` is the label in the metrics."""

    cause = "failed"

    def __init__(self, role: Role, instance_id: str, what: str) -> None:
        super().__init__(f"The {role} instance {instance_id} {what}.")
        self.role = role
        self.instance_id = instance_id


class InstanceUnreachable(LegFailed):
    cause = "unreachable"


class InstanceBusy(LegFailed):
    """`status`, `body` and `retry_after` are the instance's own, the body in OpenAI's form."""

    cause = "busy"

    def __init__(
        self, role: Role, instance_id: str, what: str, status: int, body: bytes, retry_after: str | None
    ) -> None:
        super().__init__(role, instance_id, what)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class InstanceError(LegFailed):
    """`body` is the instance's own, in OpenAI's form; without one its words are not for the client.

    repeated: another instance had the same answer for this request.
    """

    cause = "error"

    def __init__(self, role: Role, instance_id: str, what: str, status: int = 502, body: bytes | None = None) -> None:
        super().__init__(role, instance_id, what)
        self.status = status
        self.body = body
        self.repeated = False

    def after(self, earlier: LegFailed | None) -> None:
        """This is the second try's."""
        self.repeated = isinstance(earlier, InstanceError) and earlier.status == self.status


class AnswerBroken(LegFailed):
    cause = "broken_answer"


class AnswerUnfinished(LegFailed):
    cause = "unfinished_answer"


class AnswerStalled(LegFailed):
    cause = "deadline"


class DeadlinePassed(ProxyError):
    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} took longer than {limit_s:g} s.")


@dataclass(frozen=True)
class HttpError:
    """An answer in OpenAI's error form."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


_STATUS: dict[type[ProxyError], tuple[int, str]] = {
    BadRequest: (400, "invalid_request"),
    Unauthorized: (401, "invalid_api_key"),
    ModelNotFound: (404, "model_not_found"),
    HeadTooSlow: (408, "request_timeout"),
    BodyTooSlow: (408, "request_timeout"),
    BodyTooLarge: (413, "request_too_large"),
    UnsupportedCoding: (415, "unsupported_content_encoding"),
    HeadTooLarge: (431, "headers_too_large"),
    TooBusy: (429, "overloaded"),
    SloUnreachable: (429, "slo_unreachable"),
    TooManyConnections: (503, "too_many_connections"),
    NoInstance: (503, "no_instance"),
    ShuttingDown: (503, "shutting_down"),
    InstanceUnreachable: (502, "instance_unreachable"),
    InstanceBusy: (503, "instance_busy"),
    InstanceError: (502, "instance_error"),
    AnswerBroken: (502, "answer_broken"),
    AnswerUnfinished: (502, "answer_broken"),
    AnswerStalled: (504, "deadline_passed"),
    DeadlinePassed: (504, "deadline_passed"),
}


def http_error(error: ProxyError) -> HttpError:
    """The one place where a failure gets its HTTP status."""
    if isinstance(error, RejectedByInstance):
        headers = {"Retry-After": error.retry_after} if error.retry_after else {}
        return HttpError(error.status, error.body, headers)
    if isinstance(error, InstanceBusy):
        return HttpError(error.status, error.body, {"Retry-After": error.retry_after or BUSY_RETRY_AFTER})
    if isinstance(error, InstanceError) and error.body is not None:
        # OpenAI's and Anthropic's own clients repeat a 5xx unless they are told that it is of no use.
        return HttpError(error.status, error.body, {"X-Should-Retry": "false"} if error.repeated else {})
    status, _ = _STATUS[type(error)]
    body = error_body(status, str(error), code(error), getattr(error, "param", None))
    return HttpError(status, body, _headers(error))


def _headers(error: ProxyError) -> dict[str, str]:
    if isinstance(error, Wait):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, UnsupportedCoding):
        return {"Accept-Encoding": error.known}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}


def code(error: ProxyError) -> str:
    """A short name for logs and metrics, the same as in the client's error object."""
    return "rejected_by_instance" if isinstance(error, RejectedByInstance) else _STATUS[type(error)][1]


def error_body(status: int, message: str, code: str | int | None = None, param: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()
