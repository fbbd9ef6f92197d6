import pytest

from loadtest.sending.statistics_table import three_digits


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [
        (0, 0),
        (0.004, 0),
        (0.126, 0.13),
        (1, 1),
        (3.4567, 3.46),
        (10.44, 10.4),
        (99.96, 100),
        (1234.5, 1230),
        (65_432, 65_400),
    ],
)
def test_three_digits(milliseconds: float, bucket: float) -> None:
    assert three_digits(milliseconds) == bucket
