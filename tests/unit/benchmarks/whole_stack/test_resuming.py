"""How a comparison is found again, and how far it says that it is."""

from pathlib import Path

from benchmarks.whole_stack.progress import Progress
from benchmarks.whole_stack.resuming import begun, code_fingerprint


def test_the_code_is_known_by_its_contents(tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "compose.yaml").write_text("a")
    first = code_fingerprint(folder=tmp_path)
    (tmp_path / "README.md").write_text("documents do not count")
    assert code_fingerprint(folder=tmp_path) == first
    (tmp_path / "proxy" / "app.py").write_text("b")
    assert code_fingerprint(folder=tmp_path) != first
    of_a_benchmark = code_fingerprint("benchmarks/*.py", folder=tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "mixture.py").write_text("c")
    assert code_fingerprint("benchmarks/*.py", folder=tmp_path) != of_a_benchmark


def test_a_resumed_comparison_keeps_its_name_and_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "begun.json"
    name, started = begun(file, ("serving", "cpu"), {"seed": 0})
    assert name.endswith("-serving-cpu")
    file.write_text(file.read_text().replace(started, "2026-01-01 00:00 UTC"))
    assert begun(file, ("serving", "cpu"), {"seed": 0}) == (name, "2026-01-01 00:00 UTC")


def test_the_rest_is_estimated_from_what_was_seen() -> None:
    now = 0.0
    progress = Progress(points=4, starts=2, point_s=60.0, clock=lambda: now)
    now = 40.0
    progress.started(40.0)
    now = 110.0
    line = progress.measured("aggregated, 9/9@1", 70.0)
    assert line == "[1/4] aggregated, 9/9@1; 1:50 gone, about 4:10 left"  # three times 70 s, and a start of 40 s
