from connector.control.messages import Done
from connector.scheduling.steps import sum_of_shares


def test_facts_of_two_shares_add_bytes_and_overlap_times() -> None:
    one, other = Done("t", 0, 10, 1, 2, 0.5, 0.1, "tcp"), Done("t", 1, 20, 3, 4, 0.25, 0.2, "tcp")
    assert sum_of_shares([one, other]) == Done("t", 0, 30, 4, 6, 0.5, 0.2, "tcp")
