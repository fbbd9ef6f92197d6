"""What a soak can be told, and what it makes of it."""

import pytest

from benchmarks.soak.options import parse


def test_the_default_is_a_fifth_of_the_time_with_ten_users_and_then_a_hundred() -> None:
    options = parse([])
    assert options.stages == [(180.0, 10), (720.0, 100)]
    assert options.judged_from_s == 180 + 240
    words = options.load_arguments
    assert words[words.index("--stages") + 1] == "180:10,720:100"


def test_a_long_run_warms_up_for_ten_minutes() -> None:
    options = parse(["--duration", "4h", "--users", "5"])
    assert options.stages == [(4 * 3600.0, 5)]
    assert options.judged_from_s == 600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--duration", "15"], "'15': expected e.g. 90s, 15m or 4h"),
        (["--duration", "0m"], "'0m': expected e.g. 90s, 15m or 4h"),
        (["--users", "0"], "expected 1 or more"),
        (["--users", "1,2,3,4,5,6"], "expected at most 5 numbers"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert said in capsys.readouterr().err.splitlines()[-1]
