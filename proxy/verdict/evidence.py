"""What an instance's answer shows, or that none came: one of the errors of `proxy.errors`.

vLLM 0.32 says "busy" with 503 and an error object (`--max-num-queued-reqs`, `--max-num-queued-tokens`, a request that
is safe to repeat, a change of its size). When its engine has died it answers 500, then it ends; its /health has 503
then, without a body. It answers 500 to some requests that it should have refused, too (vllm-project/vllm#44138).
"""

import errno
import json

import aiohttp

from proxy.errors import (
    AnswerBroken,
    InstanceBusy,
    InstanceError,
    InstanceUnreachable,
    ProxyError,
    RejectedByInstance,
    TooManyConnections,
    error_body,
)
from stack.instances.record import Instance

# The instance refuses the key that the proxy sends: the stack's configuration is wrong, not the client's request.
OUR_FAULT = frozenset({401, 403, 407})
NOT_IMPLEMENTED = 501  # vLLM says so of a parameter
# It is the proxy that has no socket left.
OUT_OF_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def refusal(instance: Instance, status: int, body: bytes, retry_after: str | None) -> ProxyError | None:
    """None for an answer that is none."""
    if status < 300:
        return None
    role, name, what = instance.role, instance.instance_id, f"answered {status}: {message(body)}"
    if status < 400 or status in OUR_FAULT:
        return InstanceError(role, name, what)
    if status == 429 or (status == 503 and _has_error(body)):
        return InstanceBusy(role, name, what, status, _in_openai_form(status, body), retry_after)
    if status >= 500 and status != NOT_IMPLEMENTED:
        return InstanceError(role, name, what, status, _in_openai_form(status, body))
    return RejectedByInstance(status, _in_openai_form(status, body), retry_after)


def lost(instance: Instance, error: aiohttp.ClientError) -> ProxyError:
    """The connection failed."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno in OUT_OF_SOCKETS:
        return TooManyConnections()
    role, name = instance.role, instance.instance_id
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
        return InstanceUnreachable(role, name, f"cannot be reached ({_named(error)})")
    return AnswerBroken(role, name, f"broke the connection off ({_named(error)})")


def message(body: bytes) -> str:
    """What an error body says, short enough for one line."""
    text = body.decode(errors="replace").strip()
    content = _json(body)
    if isinstance(content, dict):
        error = content.get("error", content.get("detail"))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    return text[:300] or "(no text)"


def _has_error(body: bytes) -> bool:
    content = _json(body)
    return isinstance(content, dict) and bool(content.get("error"))


def _in_openai_form(status: int, body: bytes) -> bytes:
    content = _json(body)
    if isinstance(content, dict) and isinstance(content.get("error"), dict):
        return body
    return error_body(status, message(body), status)


def _json(body: bytes) -> object:
    try:
        content: object = json.loads(body)
    except ValueError:
        return None
    return content


def _named(error: BaseException) -> str:
    """Some of aiohttp's errors have no text of their own."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
