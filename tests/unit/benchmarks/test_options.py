"""The command line: defaults that suit the machine, and one line for what cannot work."""

import pytest

from benchmarks.connector.options import parse
from benchmarks.connector.stages import Stage, stages


def test_a_profile_sets_defaults_and_an_option_wins() -> None:
    options = parse(["latency", "concurrency", "--profile", "gpu", "--prompt-tokens", "100,200"])
    assert options.measurements == ("latency", "concurrency")
    assert options.transports == ("nvlink_intra", "tcp")
    assert options.prompt_tokens == (100, 200)
    assert options.users == (8, 32)
    assert parse(["latency"]).transports == ("tcp",)


def test_variables_for_our_launchers() -> None:
    options = parse(["latency", "--ours-env", "KV_STREAM_MIN_TOKENS=512", "X=a=b"])
    assert options.variables_of_ours == {"KV_STREAM_MIN_TOKENS": "512", "X": "a=b"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["latency", "--routes", "single,theirs"], "'single,theirs': expected some of single,ours,upstream"),
        (["latency", "--routes", ""], "'': expected some of single,ours,upstream"),
        (["latency", "--rounds", "0"], "'0': expected 1 or more"),
        (["latency", "--compilation-config", "O0"], "--compilation-config='O0': expected a JSON object"),
        (["latency", "--compilation-config", "[]"], "--compilation-config='[]': expected a JSON object"),
        (["latency", "--ours-env", "CHUNK"], "--ours-env='CHUNK': expected NAME=VALUE"),
        (["speculation"], "speculation: expected --draft, one of itself, eagle, mtp"),
        (["speculation", "--draft", "medusa"], "--draft='medusa': expected one of itself, eagle, mtp"),
        (["latency", "--draft", "eagle"], "--draft='eagle': expected with the measurement speculation only"),
        (
            ["speculation", "--draft", "itself", "--model-shape", "gemma-3-12b"],
            "--model-shape='gemma-3-12b': expected --model-shape qwen2.5-7b with --draft itself",
        ),
        (
            ["speculation", "--draft", "mtp", "--model", "/m"],
            "--model='/m': expected --model-shape deepseek-v3 with --draft mtp",
        ),
        (
            ["speculation", "--draft", "mtp", "--model-shape", "deepseek-v3", "--before", "/b"],
            "--before='/b': expected none with speculation",
        ),
        (["latency", "link"], "link: expected alone and with --profile cpu"),
        (["link", "--profile", "gpu"], "link: expected alone and with --profile cpu"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(words)
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--profile", "gpu"], [("nvlink_intra", "ours,upstream"), ("tcp", "ours,upstream")]),
        (["--profile", "cpu"], [("tcp, ours", "ours"), ("tcp, upstream", "upstream")]),
        (["--pairs-at-once", "2"], [("tcp", "ours,upstream")]),
        (["--routes", "single,ours"], [("tcp", "ours")]),
        (["--routes", "single"], [("single", "")]),
    ],
)
def test_which_servers_run_side_by_side(words: list[str], expected: list[tuple[str, str]]) -> None:
    found: list[Stage] = stages(parse(["latency", *words]))
    assert [(stage.name, ",".join(stage.pairs)) for stage in found] == expected
