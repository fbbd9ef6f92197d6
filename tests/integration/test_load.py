"""The load under which the demo that this project grew from hung: ten users at once, for a minute."""

from tests.real_stack import RealStack, metrics


def test_ten_users_for_a_minute_without_an_error(stack: RealStack) -> None:
    before = metrics(stack.decode_url)
    run = stack.make("load")
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    for row in ("TTFT", "TPOT", "ITL"):
        assert row in run.stdout + run.stderr
    after = metrics(stack.decode_url)
    arrived = after["pd_kv_received_shares_total"] - before.get("pd_kv_received_shares_total", 0)
    failed = after.get("pd_kv_failed_shares_total", 0) - before.get("pd_kv_failed_shares_total", 0)
    assert arrived >= 10
    assert failed == 0, "a prompt whose cache did not arrive is answered, but not by disaggregation"
