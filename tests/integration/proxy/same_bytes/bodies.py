"""What clients put into bodies, how they encode it, and what they leave out."""

import gzip
import json
import zlib

from backports import zstd

from tests.integration.proxy.same_bytes.raw_http import post
from tests.integration.proxy.same_bytes.rows import (
    BODIES,
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
    Row,
    body,
    raw_member,
    refused,
)
from tests.real_stack import MODEL

BOM = b"\xef\xbb\xbf"
TEXT, TOKENIZED = body().decode(), body(TOKENIZE).decode()
ENCODINGS = [
    Row("plain", post(COMPLETIONS, body(max_tokens=3))),
    Row("UTF-8 BOM", post(COMPLETIONS, BOM + body())),
    Row("UTF-8 BOM, chat", post(CHAT, BOM + body(CHAT))),
    Row("UTF-8 BOM, stream", post(COMPLETIONS, BOM + body(stream=True))),
    Row("UTF-8 BOM, tokenize", post(TOKENIZE, BOM + body(TOKENIZE))),
    refused("two BOMs", post(COMPLETIONS, 2 * BOM + body())),
    Row("UTF-16 with BOM", post(COMPLETIONS, TEXT.encode("utf-16"))),
    Row("UTF-16LE", post(TOKENIZE, TOKENIZED.encode("utf-16-le"))),
    Row("UTF-16BE", post(TOKENIZE, TOKENIZED.encode("utf-16-be"))),
    Row("UTF-32 with BOM", post(TOKENIZE, TOKENIZED.encode("utf-32"))),
    Row("UTF-32LE", post(COMPLETIONS, TEXT.encode("utf-32-le"))),
    refused("UTF-16, cut in a character", post(COMPLETIONS, TEXT.encode("utf-16")[:-1])),
    refused("invalid UTF-8", post(COMPLETIONS, body().replace(b"San", b"\xff\xfe"))),
    refused("Latin-1", post(COMPLETIONS, body(prompt="Z~rich").replace(b"~", b"\xfc"))),
    Row("UTF-8 of half a surrogate pair", post(COMPLETIONS, body().replace(b"San", b"\xed\xa0\xbd")), 400),
    Row("escaped half of a surrogate pair", post(COMPLETIONS, body(prompt="\ud83d San")), 400),
    Row("unescaped UTF-8", post(CHAT, body(CHAT).replace(b"city", "città 🎈".encode()))),
]
JSON = [
    Row("white space around it", post(COMPLETIONS, b"\r\n\t " + body() + b" \r\n\t")),
    refused("vertical tab behind it", post(COMPLETIONS, body() + b"\x0b")),
    refused("NUL behind it", post(COMPLETIONS, body() + b"\0")),
    refused("two objects", post(COMPLETIONS, 2 * body())),
    refused("cut off", post(COMPLETIONS, body()[:-1])),
    refused("empty", post(COMPLETIONS, b"")),
    refused("white space alone", post(COMPLETIONS, b"  ")),
    refused("null", post(COMPLETIONS, b"null")),
    refused("a list", post(COMPLETIONS, b"[" + body() + b"]")),
    refused("a string", post(COMPLETIONS, json.dumps(TEXT).encode())),
    Row("an empty object", post(COMPLETIONS, b"{}"), 400),
    Row("an empty object, spread out, chat", post(CHAT, b"{ \n}"), 400),
    refused("single quotes", post(COMPLETIONS, body().replace(b'"', b"'"))),
    refused("comma at the end", post(COMPLETIONS, body()[:-1] + b",}")),
    refused("comment", post(COMPLETIONS, body() + b"// a completion")),
    refused("line break in a string", post(COMPLETIONS, body().replace(b"San", b"San\n"))),
    Row("a name twice", post(COMPLETIONS, raw_member('"max_tokens": 2'))),
    refused("the model twice", post(COMPLETIONS, raw_member('"model": "nobody"')), 404),
    Row("unknown field", post(COMPLETIONS, raw_member('"unknown": {"a": [1, null, NaN]}'))),
    Row("transfer parameters are null", post(COMPLETIONS, body(kv_transfer_params=None, ec_transfer_params=None))),
    Row("transfer parameters are null, chat", post(CHAT, body(CHAT, kv_transfer_params=None, stream=True))),
    Row(
        "transfer parameters are empty",
        post(COMPLETIONS, body(kv_transfer_params={})),
        instead=400,
        why="connectors act on them, so only the proxy sets them",
    ),
    Row("NaN for a float", post(COMPLETIONS, raw_member('"top_p": NaN')), 400),
    Row("Infinity for a float", post(COMPLETIONS, raw_member('"temperature": Infinity')), 400),
    Row("1e999 for a float", post(COMPLETIONS, raw_member('"repetition_penalty": 1e999')), 400),
    Row("NaN for an integer", post(COMPLETIONS, raw_member('"max_tokens": NaN')), 400),
    Row("float for an integer", post(COMPLETIONS, raw_member('"max_tokens": 2.0'))),
    Row("integer of 30 digits", post(COMPLETIONS, raw_member(f'"seed": {"9" * 30}')), 400),
    Row("integer of 600 digits, unknown", post(TOKENIZE, raw_member(f'"unknown": {"9" * 600}', TOKENIZE))),
    Row(
        "integer of 1,000 digits, unknown",
        post(TOKENIZE, raw_member(f'"unknown": {"9" * 1000}', TOKENIZE)),
        instead=400,
        why="the time to read one grows with its square",
    ),
    Row("nested 300 times", post(COMPLETIONS, raw_member(f'"unknown": {"[" * 300}{"]" * 300}'))),
    refused("nested 100,000 times", post(COMPLETIONS, b"[" * 100_000)),
]
STREAMS = [
    Row(
        "a stream that fails at once",
        post(COMPLETIONS, body(stream=True, prompt=[10**9])),
        instead=400,
        why="before the first token a failure is a status, as clients expect it; vLLM has begun its stream",
    ),
]
GZIP, DEFLATE, ZSTD = (f"Content-Encoding: {coding}" for coding in ("gzip", "deflate", "zstd"))
BETTER = "vLLM takes compressed bodies for text and refuses them"
BELIEVED = "vLLM ignores the header; a body that is not what it says may be anything"
CODINGS = [
    Row("gzip", post(COMPLETIONS, gzip.compress(body()), GZIP), 400, instead=200, why=BETTER),
    Row("deflate", post(TOKENIZE, zlib.compress(body(TOKENIZE)), DEFLATE), 400, instead=200, why=BETTER),
    Row("zstd", post(RESPONSES, zstd.compress(body(RESPONSES)), ZSTD), 400, instead=200, why=BETTER),
    Row("gzip, stream", post(CHAT, gzip.compress(body(CHAT, stream=True)), GZIP), 400, instead=200, why=BETTER),
    Row("identity", post(TOKENIZE, body(TOKENIZE), "Content-Encoding: identity")),
    Row("no coding", post(TOKENIZE, body(TOKENIZE), "Content-Encoding:")),
    Row("gzip that is none", post(TOKENIZE, body(TOKENIZE), GZIP), instead=400, why=BELIEVED),
    Row("unknown coding", post(TOKENIZE, body(TOKENIZE), "Content-Encoding: br"), instead=415, why=BELIEVED),
    refused("gzip without saying so", post(COMPLETIONS, gzip.compress(body()))),
]


def typed(content_type: str | None, *headers: str, path: str = TOKENIZE) -> bytes:
    return post(path, body(path), *headers, content_type=content_type)


TYPES = [
    Row("JSON with a charset", typed("application/json; charset=utf-8")),
    Row("JSON with another charset", typed("application/json;charset=latin-1")),
    Row("JSON in capitals", typed("APPLICATION/JSON")),
    Row(
        "a blank before the charset", typed("application/json ; charset=utf-8"), 400, instead=200, why="RFC 9110 has it"
    ),
    refused("no type", typed(None)),
    refused("an empty type", typed("")),
    refused("text/plain", typed("text/plain", path=COMPLETIONS)),
    refused("a form, as curl -d sends it", typed("application/x-www-form-urlencoded", path=CHAT)),
    refused("a form, messages", typed("application/x-www-form-urlencoded", path=MESSAGES)),
    refused("a form, tokenize", typed("application/x-www-form-urlencoded")),
    refused("a kind of JSON", typed("application/vnd.api+json")),
    Row("two types", typed("application/json", "Content-Type: text/plain")),
    refused("two types, the other way", typed("text/plain", "Content-Type: application/json")),
    Row("Accept of a browser", typed("application/json", "Accept: text/html", "Accept-Encoding: gzip, br, zstd")),
]
IDS = [
    Row("request_id", post(COMPLETIONS, body(request_id="my-trace-1")), ids=True),
    Row("request_id, stream", post(COMPLETIONS, body(request_id="my-trace-2", stream=True)), ids=True),
    Row("request_id, chat", post(CHAT, body(CHAT, request_id="my-trace-3")), ids=True),
    Row("request_id, responses", post(RESPONSES, body(RESPONSES, request_id="resp_my-trace-4")), ids=True),
    Row("request_id, messages", post(MESSAGES, body(MESSAGES, request_id="my-trace-5"))),
    Row("request_id, tokenize", post(TOKENIZE, body(TOKENIZE, request_id="my-trace-6"))),
    Row("request_id and header", post(COMPLETIONS, body(request_id="mine"), "X-Request-Id: wins"), ids=True),
    Row(
        "request_id and header, responses",
        post(RESPONSES, body(RESPONSES, request_id="resp_x"), "X-Request-Id: y"),
        ids=True,
    ),
    Row("header, chat", post(CHAT, body(CHAT), "X-Request-Id: alone"), ids=True),
    Row("header, messages", post(MESSAGES, body(MESSAGES), "X-Request-Id: alone-2"), ids=True),
    Row("request_id is empty", post(COMPLETIONS, body(request_id="")), ids=True),
    Row("request_id with a line break", post(COMPLETIONS, body(request_id="a\r\nX-Injected: 1")), ids=True),
    Row("request_id with NUL and tab", post(CHAT, body(CHAT, request_id="a\0b\tc")), ids=True),
    Row("request_id of 5,000 characters", post(COMPLETIONS, body(request_id="x" * 5000)), ids=True),
    Row("request_id in Chinese", post(CHAT, body(CHAT, request_id="请求")), ids=True),
    Row(
        "request_id is half a surrogate pair",
        post(COMPLETIONS, body(request_id="\ud83d")),
        500,
        instead=400,
        why="vLLM fails when it writes the answer",
    ),
    Row("request_id is a number", post(COMPLETIONS, body(request_id=5)), 400),
    Row("request_id is null", post(COMPLETIONS, body(request_id=None)), 400),
    Row("request_id is a list", post(CHAT, body(CHAT, request_id=["x"])), 400),
]
OPTIONAL = (COMPLETIONS, CHAT, RESPONSES, TOKENIZE, DETOKENIZE)
REQUIRED = (MESSAGES, COUNT_TOKENS)
MODELS = [
    *(Row(f"no model, {path}", post(path, body(path, model=...))) for path in OPTIONAL),
    *(Row(f"no model, {path}", post(path, body(path, model=...)), 400) for path in REQUIRED),
    *(Row(f"model is null, {path}", post(path, body(path, model=None))) for path in OPTIONAL),
    *(Row(f"model is null, {path}", post(path, body(path, model=None)), 400) for path in REQUIRED),
    *(Row(f"model is empty, {path}", post(path, body(path, model=""))) for path in OPTIONAL),
    *(Row(f"model is empty, {path}", post(path, body(path, model="")), 400) for path in REQUIRED),
    Row("no model, stream", post(COMPLETIONS, body(model=..., stream=True))),
    refused("model is a number", post(COMPLETIONS, body(model=5))),
    refused("model is false", post(COMPLETIONS, body(model=False))),
    refused("model is a list", post(CHAT, body(CHAT, model=[MODEL]))),
    *(refused(f"unknown model, {path}", post(path, body(path, model="nobody")), 404) for path in BODIES),
    refused("model in capitals", post(COMPLETIONS, body(model=MODEL.upper())), 404),
    refused("model with a blank", post(COMPLETIONS, body(model=MODEL + " ")), 404),
]
ROWS = [*ENCODINGS, *JSON, *STREAMS, *CODINGS, *TYPES, *IDS, *MODELS]
