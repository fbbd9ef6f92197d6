import statistics
from random import Random

import pytest

from loadtest import lengths


def drawn(text: str) -> list[int]:
    rng = Random(0)
    found = lengths.parse(text)
    return [found.draw(rng) for _ in range(4000)]


def test_a_number_is_always_that_length() -> None:
    assert set(drawn("256")) == {256}
    assert lengths.parse("256").typical == 256


def test_uniform_has_every_length_and_no_other() -> None:
    assert set(drawn("uniform:100-119")) == set(range(100, 120))


@pytest.mark.parametrize(("text", "typical"), [("normal:1000,200", 1000), ("lognormal:1000,0.5", 1000)])
def test_the_median_is_the_one_given(text: str, typical: int) -> None:
    assert lengths.parse(text).typical == typical
    assert statistics.median(drawn(text)) == pytest.approx(typical, rel=0.03)


def test_the_deviation_is_the_one_given() -> None:
    assert statistics.stdev(drawn("normal:1000,200")) == pytest.approx(200, rel=0.05)
    # 84 % of a lognormal distribution lie below median * e^sigma.
    assert statistics.quantiles(drawn("lognormal:1000,0.5"), n=100)[83] == pytest.approx(1649, rel=0.05)


@pytest.mark.parametrize("text", ["normal:5,100", "lognormal:1,5"])
def test_no_length_is_shorter_than_a_token(text: str) -> None:
    assert min(drawn(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "1.5",
        "many",
        "uniform:5-4",
        "uniform:0-4",
        "uniform:5",
        "normal:5",
        "normal:0,1",
        "normal:nan,1",
        "lognormal:0.5,1",
        "lognormal:100,11",
        "zipf:2",
        " 5",
        "5 ",
    ],
)
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        lengths.parse(text)
