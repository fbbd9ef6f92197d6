"""Why a request did not count as answered; Locust's failure table shows class and message.

RequestFailed
├── ConnectionFailed   no connection, or it broke before the answer began: is the target up?
├── TimedOut           nothing arrived for LOADTEST_TIMEOUT_S
├── HttpError          the status was not 200; the message is OpenAI's `error.message`
├── ErrorInStream      the server reported an error after the stream had begun
├── StreamCutOff       the stream ended before finish_reason and [DONE]: the client holds half an answer
├── Unfinished         still unanswered when the test was over and LOADTEST_DRAIN_S too
└── UnexpectedAnswer   the answer is not what the OpenAI API promises
"""

import json
from collections.abc import Mapping

_LONGEST_MESSAGE = 200  # characters; a traceback in an error body would make the failure table unreadable


class RequestFailed(Exception):
    """Base of every failure that is counted; anything else is a defect of the load test itself."""


class ConnectionFailed(RequestFailed):
    pass


class TimedOut(RequestFailed):
    pass


class HttpError(RequestFailed):
    """headers: of the answer, by lower-case names; in them the proxy says where the request went."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.headers = headers


class ErrorInStream(RequestFailed):
    pass


class StreamCutOff(RequestFailed):
    pass


class Unfinished(RequestFailed):
    pass


class UnexpectedAnswer(RequestFailed):
    pass


def openai_message(body: str) -> str:
    """The message in an OpenAI error body (`{"error": {"message": ...}}`), or the body itself if it is none."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body.strip()[:_LONGEST_MESSAGE]
    error = parsed.get("error") if isinstance(parsed, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or body).strip()[:_LONGEST_MESSAGE]
