"""requests.jsonl: what is written is read again, and damage costs no more than the damaged lines."""

import json
from pathlib import Path

import pytest

from loadtest.figures.record import RequestRecord
from loadtest.runs.requests_file import RequestsFile, SavedRequests
from tests.unit.loadtest.made_records import answered, unanswered

RECORDS = [
    answered(0.125, index=0, phases={"queue": 0.25}, request_id="a\n\u2028b"),
    unanswered(1.5, index=1, message='"quoted" and ümläut'),
    answered(2.5, index=2),
]


def written(path: Path, records: list[RequestRecord]) -> Path:
    file = RequestsFile(path)
    for record in records:
        file.append([record])
    file.close()
    return path


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    saved = SavedRequests(written(tmp_path / "requests.jsonl", RECORDS))
    assert list(saved) == RECORDS
    assert list(saved) == RECORDS  # again
    assert saved.damage() is None


def test_every_line_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    file = RequestsFile(tmp_path / "requests.jsonl")
    for number, record in enumerate(RECORDS, start=1):
        file.append([record])
        assert len(list(SavedRequests(tmp_path / "requests.jsonl"))) == number
    file.close()


def test_a_line_is_json_without_what_is_not_known(tmp_path: Path) -> None:
    line = written(tmp_path / "requests.jsonl", [unanswered(1.5, index=1)]).read_text()
    assert json.loads(line) == {
        **{"index": 1, "outcome": "failed", "scheduled": 1.5, "started": 1.5, "ended": 1.7},
        "error": "HttpError",
    }


@pytest.mark.parametrize(
    "damage", [b'{"index": 7, "outcome": "comp', b"\n", b"\xff\xfe\x00\n", b"[]\n", b'{"index": 1}\n', b"\x00" * 100]
)
def test_damaged_lines_are_left_out_and_named(tmp_path: Path, damage: bytes) -> None:
    path = written(tmp_path / "requests.jsonl", RECORDS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage.rstrip(b"\n") + b"\n" + b"".join(lines[1:]))
    saved = SavedRequests(path)
    assert list(saved) == RECORDS
    assert saved.damage() == "1 of the lines of requests.jsonl are no records and were left out: 2"


def test_half_a_last_line_of_a_killed_run(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", RECORDS)
    path.write_bytes(path.read_bytes()[:-20])
    saved = SavedRequests(path)
    assert list(saved) == RECORDS[:2]
    assert saved.damaged == [3]
