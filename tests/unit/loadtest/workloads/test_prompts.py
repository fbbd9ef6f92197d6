import json
from pathlib import Path
from typing import Any

import pytest

from stack.configuration.environment import ConfigError
from tests.unit.loadtest.workloads.conftest import Make
from tests.unit.loadtest.workloads.served import MODEL

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
MESSAGES = [{"role": "user", "content": "Why?"}]


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "path", "body"),
    [
        ({"prompt": "Grüße"}, "/v1/completions", {"model": MODEL, "max_tokens": 30, "prompt": "Grüße"}),
        ({"prompt": [5, 6]}, "/v1/completions", {"model": MODEL, "max_tokens": 30, "prompt": [5, 6]}),
        (
            {"messages": MESSAGES, "max_tokens": 4, "temperature": 0.5, "stop": ["."]},
            "/v1/chat/completions",
            {"model": MODEL, "messages": MESSAGES, "max_tokens": 4, "temperature": 0.5, "stop": ["."]},
        ),
        (
            {"messages": MESSAGES, "max_completion_tokens": 4, "seed": None},
            "/v1/chat/completions",
            {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 4, "seed": None},
        ),
        (
            {"model": "adapter", "prompt": "Why?", "stream": True, "ignore_eos": True},
            "/v1/completions",
            {"model": "adapter", "max_tokens": 30, "prompt": "Why?", "ignore_eos": True},
        ),
    ],
)
def test_a_line_is_a_request(make: Make, tmp_path: Path, line: dict[str, Any], path: str, body: dict[str, Any]) -> None:
    workload = make("prompts", prompts_file=written(tmp_path, line), output_tokens="30")
    request = workload.request(0)
    assert (request.path, request.body) == (path, body | STREAMED)
    assert request.input_tokens is None
    assert request.output_tokens is None


def test_every_line_once_in_their_order(make: Make, tmp_path: Path) -> None:
    workload = make("prompts", prompts_file=written(tmp_path, *({"prompt": str(n)} for n in range(5))))
    assert workload.requests == 5
    assert workload.start_times is None
    assert [workload.request(index).body["prompt"] for index in range(5)] == list("01234")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Why?", "Input should be an object"),
        ({"text": "Why?"}, "expected either `prompt` or `messages`"),
        ({"prompt": "Why?", "messages": MESSAGES}, "expected either `prompt` or `messages`"),
        ({"messages": "Why?"}, "messages: Input should be a valid array"),
        ({"prompt": "Why?", "stream": False}, "stream: the load test measures streams; leave it out"),
    ],
)
def test_a_bad_line_is_named(make: Make, tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, {"prompt": "Who?"}, line)
    with pytest.raises(ConfigError) as raised:
        make("prompts", prompts_file=path)
    assert raised.value.lines == [f"LOADTEST_PROMPTS_FILE={str(path)!r}, line 2: {said}"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'\xef\xbb\xbf{"prompt":"a"}\n{"prompt":"b"}\n', id="byte order mark"),
        pytest.param(b'{"prompt":"a"}\r\n{"prompt":"b"}\r\n', id="lines end as on Windows"),
        pytest.param(b'\xef\xbb\xbf\r\n{"prompt":"a"}\r\n\r\n{"prompt":"b"}', id="both, and empty lines"),
    ],
)
def test_files_are_read_as_editors_write_them(make: Make, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    workload = make("prompts", prompts_file=path)
    assert [workload.request(index).body["prompt"] for index in range(workload.requests or 0)] == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32"), ("utf-32-be", "UTF-32")]
)
def test_another_encoding_is_named(make: Make, tmp_path: Path, encoding: str, name: str) -> None:
    path = tmp_path / "prompts.jsonl"
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"  # Python's codecs without a byte order write one
    path.write_bytes((mark + '{"prompt":"a"}').encode(encoding))
    with pytest.raises(ConfigError) as raised:
        make("prompts", prompts_file=path)
    assert raised.value.lines == [f"LOADTEST_PROMPTS_FILE={str(path)!r}: found {name}; expected UTF-8"]


@pytest.mark.parametrize(
    "line", [b'{"prompt":"\\ud83d"}', b'{"messages":[{"role":"user","content":"\\ud83d"}]}', b'{"prompt":"\xff"}']
)
def test_half_a_character_is_named_by_its_line(make: Make, tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt":"a"}\n' + line + b"\n")
    with pytest.raises(ConfigError) as raised:
        make("prompts", prompts_file=path)
    (said,) = raised.value.lines
    assert said.startswith(f"LOADTEST_PROMPTS_FILE={str(path)!r}, line 2: Invalid JSON: ")
