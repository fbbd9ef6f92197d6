"""Which engines a server runs, as vLLM's own arguments say it, and which ways of it are refused."""

import shlex

import pytest

from stack.instances.data_parallel import DataParallel, data_parallel_of

AWAY = ("10.0.0.1", 13345)
TO_RANK_0 = "--data-parallel-address 10.0.0.1 --data-parallel-rpc-port 13345"


@pytest.mark.parametrize(
    ("arguments", "expected", "ranks"),
    [
        ("", DataParallel(), range(0)),
        ("--max-num-seqs 4 --data-parallel-size 1", DataParallel(), range(0)),
        ("--data-parallel-size 2", DataParallel(2, 2), range(2)),
        ("--data_parallel_size=4 --enable-expert-parallel", DataParallel(4, 4), range(4)),
        ("-dp 4 -tp 2", DataParallel(4, 4), range(4)),
        ("-dp 4 --data-parallel-size 2", DataParallel(2, 2), range(2)),  # the last counts, as for vLLM
        (
            f"-dp 4 --data-parallel-hybrid-lb --data-parallel-size-local 2 {TO_RANK_0}",
            DataParallel(4, 2, 0, AWAY),
            range(2),
        ),
        (f"-dp 4 -dph -dpl 2 -dpr 2 {TO_RANK_0}", DataParallel(4, 2, 2, AWAY), range(2, 4)),
        (f"-dp 4 -dpl 2 -dpr 2 {TO_RANK_0}", DataParallel(4, 2, 2, AWAY), range(2, 4)),  # hybrid by itself
        ("-dp 4 -dpl 4 -dph", DataParallel(4, 4), range(4)),  # one host: not hybrid
        (f"-dp 4 -dpn 3 {TO_RANK_0}", DataParallel(4, 1, 3, AWAY), range(3, 4)),
        ("-dp 2 -dpn 0", DataParallel(2, 1, 0, ("127.0.0.1", 29550)), range(1)),
    ],
)
def test_engines(arguments: str, expected: DataParallel, ranks: range) -> None:
    found = data_parallel_of(shlex.split(arguments))
    assert (found, found.ranks) == (expected, ranks)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("-dp two", "invalid int value: 'two'"),
        ("-dp 0", "expected 1 or more"),
        ("-dp2", "-dp2: expected one of vLLM's --data-parallel-*"),
        ("--data-parallel-shape 2", "--data-parallel-shape: expected one of"),
        ("-dp 4 -dpl 2", "--data-parallel-size-local 2 of 4: other hosts' engines; start each host's engines with"),
        ("-dp 4 -dpl 2 -dpr 3", "--data-parallel-size-local 2 from rank 3"),
        ("-dp 4 -dpl 5", "--data-parallel-size-local 5 from rank 0"),
        ("-dp 4 -dpe", "expected --data-parallel-rank beside it"),
        ("-dp 4 -dpn 4", "--data-parallel-rank 4: expected 0 to 3"),
        ("-dp 4 -dpn 1 -dpl 2", "with no more than 1 engine here"),
        ("-dp 4 -dpm", "start one for each rank with --data-parallel-rank"),
        ("-dp 4 --headless", "--headless: its engines would be in no record"),
        ("-dp 4 -dpb ray", "expected mp"),
        ("-dp 4 --enable-elastic-ep", "--enable-elastic-ep"),
    ],
)
def test_what_cannot_be_served(arguments: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!\n)[^\n]*$") as refused:
        data_parallel_of(shlex.split(arguments))
    assert reason in str(refused.value)
