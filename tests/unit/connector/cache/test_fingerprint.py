import pytest

from connector.cache.fingerprint import difference, fingerprint


def test_fingerprint_depends_on_every_fact_and_on_nothing_else() -> None:
    assert fingerprint(a=1, b="x") == fingerprint(b="x", a=1)
    assert len({fingerprint(a=1, b="x"), fingerprint(a=2, b="x"), fingerprint(a=1, b="y"), fingerprint(a=1)}) == 4


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ('{"type": "fp8", "layers": 4}', "type: the consumer has fp8, we bf16"),
        ('{"type": "fp8", "layers": 5}', "layers: the consumer has 5, we 4; type: the consumer has fp8, we bf16"),
        ('{"type": "bf16"}', "layers: the consumer has None, we 4"),
        ("an older one", """the consumer's is 'an older one', ours '{"type": "bf16", "layers": 4}'"""),
        ("7", """the consumer's is '7', ours '{"type": "bf16", "layers": 4}'"""),
    ],
)
def test_a_difference_names_what_differs(theirs: str, expected: str) -> None:
    assert difference(theirs, '{"type": "bf16", "layers": 4}') == expected
