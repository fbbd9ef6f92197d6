"""What clients write around a body: request targets, methods, how its length is told."""

from tests.integration.proxy.same_bytes.raw_http import get, message, post
from tests.integration.proxy.same_bytes.rows import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
    Row,
    body,
    refused,
)
from tests.real_stack import MODEL

TARGETS = [
    Row("slash at the end", post(CHAT + "/", body(CHAT)), 307),
    Row("slash at the end, tokenize", post(TOKENIZE + "/", body(TOKENIZE)), 307),
    Row("slash at the end, models", get("/v1/models/"), 307),
    Row("two slashes at the end, models", get("/v1/models//"), 307),
    Row("slash at the end and a query", get("/v1/models/?a=b&c=%2F"), 307),
    Row("slash at the end, other method", get(COMPLETIONS + "/"), 307),
    Row("slash at the end, health", get("/health/"), 307),
    refused("slash at the end, unknown", get("/v1/nothing/"), 404),
    refused("slash at the end, and two first", get("//v1/models/"), 404),
    Row("root", get("/"), 404, instead=200, why="the console, which vLLM does not have"),
    refused("two slashes", post("/v1//chat/completions", body(CHAT)), 404),
    refused("two slashes first", post("/" + COMPLETIONS, body()), 404),
    refused("two slashes first, models", get("//v1/models"), 404),
    refused("two slashes, models", get("/v1//models"), 404),
    refused("v1 twice", post("/v1/v1/completions", body()), 404),
    refused("dots", get("/v1/../v1/models"), 404),
    refused("capitals", get("/V1/Models"), 404),
    Row("query", post(TOKENIZE + "?beta=true", body(TOKENIZE))),
    Row("query of Anthropic's SDK", post(MESSAGES + "?beta=true", body(MESSAGES))),
    Row("percent-encoded letter", post("/%74okenize", body(TOKENIZE))),
    Row("percent-encoded slash", post("/v1%2Fcompletions", body())),
    Row("percent-encoded slash at the end", post(COMPLETIONS + "%2F", body()), 307),
    refused("percent-encoded UTF-8", get("/v1/%E4%BD%A0"), 404),
    refused("semicolon", post(COMPLETIONS + ";v=1", body()), 404),
    Row("absolute form", post("http://example.test" + COMPLETIONS, body())),
    Row("absolute form, other host", post("http://other.test:99" + TOKENIZE, body(TOKENIZE))),
    refused("asterisk", get("*", method="OPTIONS"), 404),
]
LENGTH = f"Content-Length: {len(body(TOKENIZE))}"
CHUNKED = "Transfer-Encoding: chunked"


def framed(data: bytes, *headers: str, start: str = f"POST {TOKENIZE} HTTP/1.1") -> bytes:
    return message(start, "Content-Type: application/json", *headers, body=data)


SAME_WITHOUT_BODY = "RFC 9110: what GET answers, without the body"
METHODS = [
    refused("GET", get(COMPLETIONS), 405),
    refused("GET with a body", framed(body(TOKENIZE), LENGTH, start=f"GET {TOKENIZE} HTTP/1.1"), 405),
    refused("PUT", framed(body(TOKENIZE), LENGTH, start=f"PUT {TOKENIZE} HTTP/1.1"), 405),
    refused("PATCH", get(RESPONSES, method="PATCH"), 405),
    refused("DELETE", get("/v1/models", method="DELETE"), 405),
    refused("POST", post("/v1/models", b"{}"), 405),
    refused("HEAD of a completion", get(COMPLETIONS, method="HEAD"), 405),
    Row("HEAD", get("/v1/models", method="HEAD"), 405, instead=200, why=SAME_WITHOUT_BODY),
    Row("HEAD of health", get("/health", method="HEAD"), 405, instead=200, why=SAME_WITHOUT_BODY),
    Row("a model", get(f"/v1/models/{MODEL}"), 404, instead=200, why="OpenAI's API has it"),
    refused("small letters", framed(body(TOKENIZE), LENGTH, start=f"post {TOKENIZE} HTTP/1.1")),
    refused("unknown method", get("/v1/models", method="BREW")),
]


def chunked(data: bytes, end: bytes = b"\r\n", extension: bytes = b"") -> bytes:
    """In pieces of nine bytes."""
    pieces = [data[begin : begin + 9] for begin in range(0, len(data), 9)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n" + end


FRAMING = [
    Row("chunked", framed(chunked(body()), CHUNKED, start=f"POST {COMPLETIONS} HTTP/1.1")),
    Row("chunked, with extensions", framed(chunked(body(TOKENIZE), extension=b";a=b"), CHUNKED)),
    Row(
        "chunked, with trailers",
        framed(chunked(body(TOKENIZE), b"X-Checksum: 1\r\n\r\n"), CHUNKED, "Trailer: X-Checksum"),
    ),
    Row(
        "chunked, a trailer with a type", framed(chunked(body(TOKENIZE), b"Content-Type: text/plain\r\n\r\n"), CHUNKED)
    ),
    Row("chunked, a BOM", framed(chunked(b"\xef\xbb\xbf" + body(TOKENIZE)), CHUNKED)),
    Row("chunked, capitals", framed(chunked(body(TOKENIZE)), "Transfer-Encoding: Chunked")),
    refused("chunked, and a length", framed(chunked(body(TOKENIZE)), CHUNKED, LENGTH)),
    refused("chunked, size is no number", framed(b"xyz\r\n", CHUNKED)),
    refused("no length", framed(b"")),
    refused("length is no number", framed(body(TOKENIZE), "Content-Length: many")),
    refused("length is negative", framed(body(TOKENIZE), "Content-Length: -5")),
    refused("two lengths", framed(body(TOKENIZE), LENGTH, "Content-Length: 3")),
    Row("Expect: 100-continue", framed(body(TOKENIZE), LENGTH, "Expect: 100-continue")),
    Row("Expect: something else", framed(body(TOKENIZE), LENGTH, "Expect: a-miracle")),
    Row("HTTP/1.0", framed(body(TOKENIZE), LENGTH, start=f"POST {TOKENIZE} HTTP/1.0")),
    Row(
        "no host",
        b"POST /tokenize HTTP/1.1\r\nContent-Type: application/json\r\n%b\r\nConnection: close\r\n\r\n%b"
        % (LENGTH.encode(), body(TOKENIZE)),
    ),
    Row("two hosts", framed(body(TOKENIZE), LENGTH, "Host: other.test")),
    Row(
        "upgrade to HTTP/2",
        framed(body(TOKENIZE), LENGTH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
        400,
        instead=200,
        why="RFC 9110 allows to ignore it, and Java's HttpClient asks every server",
    ),
    refused("blank before a colon", framed(body(TOKENIZE), LENGTH, "X-A : b")),
    refused("header over two lines", framed(body(TOKENIZE), LENGTH, "X-A: b\r\n c")),
    Row("header in UTF-8", framed(body(TOKENIZE), LENGTH, "X-A: \xc3\xa9")),
    Row("empty lines first", b"\r\n\r\n" + framed(body(TOKENIZE), LENGTH)),
]
ROWS = [*TARGETS, *METHODS, *FRAMING]
