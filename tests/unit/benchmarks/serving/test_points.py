"""Points as the command line writes them, the order of a plan, and the trace of a mixture."""

import json

import pytest

from benchmarks.serving.mixture import trace
from benchmarks.serving.options import parse
from benchmarks.serving.plan import AGAIN, AGGREGATED, DISAGGREGATED, Plan, Slo, compose_file
from benchmarks.serving.points import Lengths, Point, Shape, points

MIXED = Shape(Lengths(64, 200), Lengths(8000, 8), 0.1)


def plan(text: str = "512/64@0.5,1", sides: tuple[str, ...] = (DISAGGREGATED, AGGREGATED), repeats: int = 1) -> Plan:
    return Plan(points(text), sides, repeats, 60.0, 10.0, 7, Slo(1.0, 0.1, 0.2), {})


def test_a_shape_at_several_rates() -> None:
    assert points("512/128@0.2,1") == tuple(Point(Shape(Lengths(512, 128)), rate) for rate in (0.2, 1.0))


def test_a_mixture() -> None:
    assert points("64/200+8000/8:0.1@2") == (Point(MIXED, 2.0),)


@pytest.mark.parametrize("text", ["512/128@0.2", "64/200+8000/8:0.1@2"])
def test_a_point_is_written_as_it_is_read(text: str) -> None:
    (point,) = points(text)
    assert str(point) == text
    assert "/" not in point.folder


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("512@1", "'512': expected INPUT/OUTPUT tokens"),
        ("0/5@1", "'0/5': expected INPUT/OUTPUT tokens"),
        ("512/64", "'512/64': expected requests a second after @"),
        ("512/64@0", "'512/64@0': expected requests a second after @"),
        ("512/64@fast", "expected requests a second after @"),
        ("512/64@1.2.3", "'512/64@1.2.3': expected requests a second after @"),
        ("512/64@.", "'512/64@.': expected requests a second after @"),
        ("64/9+64/9:0.5@1", "expected two different kinds"),
    ],
)
def test_what_is_no_point_is_one_line(text: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--points", text])
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("text", ["long", "0", "inf"])
def test_what_is_no_time_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--seconds", text])
    assert exit_.value.code == 2
    assert f"argument --seconds: '{text}': expected a number above 0" in capsys.readouterr().err


def test_a_context_that_is_no_number_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_MODEL_LEN", "4k")
    with pytest.raises(SystemExit) as exit_:
        parse([])
    assert exit_.value.code == 2
    assert "MAX_MODEL_LEN='4k': expected a number of tokens, e.g. 4096" in capsys.readouterr().err


def test_a_request_that_the_model_cannot_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_MODEL_LEN", "4096")
    with pytest.raises(SystemExit):
        parse(["--points", "64/200+8000/8:0.1@2"])
    assert "64/200+8000/8:0.1@2: 8008 tokens, expected at most MAX_MODEL_LEN=4096" in capsys.readouterr().err
    monkeypatch.setenv("MAX_MODEL_LEN", "8192")
    assert parse(["--points", "64/200+8000/8:0.1@2"]).points == (Point(MIXED, 2.0),)


def test_the_profile_follows_the_machine_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_MODEL_LEN", raising=False)
    monkeypatch.setenv("COMPOSE_FILE", "compose.yaml:compose.gpu.yaml")
    options = parse(["--seconds", "20", "--slo-ttft", "9"])
    assert options.profile == "gpu"
    assert options.variables == {"MAX_MODEL_LEN": "16384"}
    assert (options.seconds, options.slo.ttft, options.slo.itl) == (20.0, 9.0, 0.1)
    monkeypatch.delenv("COMPOSE_FILE")
    assert parse([]).profile == "cpu"
    assert parse(["--quick"]).profile == "quick"


def test_sides_take_turns_and_get_the_same_requests() -> None:
    starts = list(plan(repeats=3).starts())
    assert [side for _, side, _ in starts] == [
        *(DISAGGREGATED, AGGREGATED),
        *(AGGREGATED, DISAGGREGATED),
        *(DISAGGREGATED, AGGREGATED),
    ]
    seeds = {(repeat, side): [one.seed for one in some] for repeat, side, some in starts}
    assert seeds[0, DISAGGREGATED] == seeds[0, AGGREGATED] == [7, 8]
    assert seeds[1, DISAGGREGATED] == seeds[1, AGGREGATED] == [9, 10]


def test_every_measurement_has_a_folder_of_its_own() -> None:
    measurements = plan("512/64@0.5,1", (DISAGGREGATED, AGGREGATED, AGAIN), repeats=2).measurements()
    assert len({measurement.folder for measurement in measurements}) == len(measurements) == 12


def test_a_plan_is_known_by_all_that_its_figures_depend_on() -> None:
    assert plan().fingerprint("code") == plan().fingerprint("code")
    others = {plan().fingerprint("other"), plan("512/64@0.5").fingerprint("code")}
    assert len({*others, plan().fingerprint("code")}) == 3


def test_sides_and_repeats_may_be_added_to_a_plan() -> None:
    assert plan(sides=(DISAGGREGATED, AGAIN), repeats=2).fingerprint("code") == plan().fingerprint("code")


def test_the_baseline_is_the_users_own_stack_with_an_overlay() -> None:
    base = "compose.yaml:compose.gpu.yaml"
    assert compose_file(AGGREGATED, base) == base + ":compose.baseline.yaml"
    assert compose_file(DISAGGREGATED, base) == compose_file(AGAIN, base) == base


def test_a_mixture_becomes_a_trace_of_both_kinds() -> None:
    rows = [json.loads(line) for line in trace(Point(MIXED, 20.0), 200.0, 3).splitlines()]
    times = [row["timestamp"] for row in rows]
    assert times == sorted(times)
    assert times[-1] < 200_000
    kinds = [(row["input_length"], row["output_length"]) for row in rows]
    assert set(kinds) == {(64, 200), (8000, 8)}
    # 4,000 requests are expected, a tenth of them prompts: both within five standard deviations.
    assert abs(len(rows) - 4000) < 5 * 4000**0.5
    assert abs(kinds.count((8000, 8)) - 400) < 5 * 400**0.5


def test_no_two_requests_of_a_trace_share_a_block() -> None:
    rows = [json.loads(line) for line in trace(Point(MIXED, 5.0), 60.0, 3).splitlines()]
    assert all(len(row["hash_ids"]) == -(-row["input_length"] // 512) for row in rows)
    ids = [block for row in rows for block in row["hash_ids"]]
    assert len(set(ids)) == len(ids)


def test_a_trace_is_that_of_its_seed_and_never_empty() -> None:
    point = Point(MIXED, 5.0)
    assert trace(point, 60.0, 3) == trace(point, 60.0, 3) != trace(point, 60.0, 4)
    assert trace(Point(MIXED, 1e-9), 1.0, 3).count("\n") == 1
