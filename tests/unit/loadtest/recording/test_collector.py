"""Records on their way: to listeners at once, from workers by way of msgpack, in bounded memory."""

from collections.abc import Sequence

import msgpack

from loadtest.figures.record import RequestRecord
from loadtest.recording.collector import KEPT_IN_MEMORY, Collector, Outbox
from tests.unit.loadtest.made_records import answered, unanswered

RECORDS = [
    answered(1.0, index=0, phases={"queue": 0.1}, path="disaggregated", transport="tcp", kv_bytes=2**40),
    unanswered(2.0, index=1, message="503: no decode instance — yet"),
]


def test_listeners_get_every_record_at_once() -> None:
    collector, seen = Collector(), list[RequestRecord]()
    collector.subscribe(seen.extend)
    for record in RECORDS:
        collector.add(record)
        assert seen[-1] == record
    assert list(collector.records) == seen == RECORDS


def test_records_of_a_worker_come_whole_and_once() -> None:
    worker, master = Outbox(), Collector()
    for record in RECORDS:
        worker.add(record)
    assert not worker.records
    master.receive(msgpack.unpackb(msgpack.packb(worker.empty())))
    assert list(master.records) == RECORDS
    assert worker.empty() == []


def test_a_report_without_records_tells_nobody() -> None:
    collector, calls = Collector(), list[Sequence[RequestRecord]]()
    collector.subscribe(calls.append)
    collector.receive([])
    assert calls == []


def test_memory_holds_the_newest_only_and_the_next_run_begins_empty() -> None:
    collector = Collector()
    for i in range(KEPT_IN_MEMORY + 5):
        collector.add(answered(float(i), index=i))
    assert len(collector.records) == KEPT_IN_MEMORY
    assert (collector.records[0].index, collector.records[-1].index) == (5, KEPT_IN_MEMORY + 4)
    collector.begin()
    assert not collector.records
