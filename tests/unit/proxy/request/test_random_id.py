"""Ids of requests and transfers."""

import re

from proxy.request.random_id import AT_ONCE, random_id


def test_ids_have_their_form_and_none_is_given_twice() -> None:
    ids = [random_id() for _ in range(3 * AT_ONCE)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
