import pytest

from connector.control.control_key import ControlKey

SECRET = "0123456789abcdef"


def test_both_ends_derive_the_same_pair() -> None:
    assert ControlKey.from_secret(SECRET) == ControlKey.from_secret(f" {SECRET}\n")


def test_another_secret_is_another_pair() -> None:
    assert ControlKey.from_secret(SECRET).public != ControlKey.from_secret(SECRET + "x").public


@pytest.mark.parametrize("secret", ["", "0123456789abcde", " " * 20])
def test_a_short_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="fewer than 16 characters") as raised:
        ControlKey.from_secret(secret)
    assert not secret.strip() or secret not in str(raised.value)


def test_the_secret_half_is_not_shown() -> None:
    key = ControlKey.from_secret(SECRET)
    assert SECRET not in repr(key)
    assert str(key._secret) not in repr(key)
