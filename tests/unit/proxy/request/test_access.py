"""Who may come in and under which name; and that no key is ever shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from proxy.errors import Unauthorized
from proxy.request.access import ClientKeys, read_client_keys
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError, load

KEYS = read_client_keys(SecretStr("alice:sk-one, team.b-2_x:sk:two"), None)


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "name"),
    [
        ("Bearer sk-one", None, "alice"),
        ("bearer  sk-one ", None, "alice"),
        (None, "sk-one", "alice"),
        ("Bearer sk:two", "sk-one", "team.b-2_x"),
        ("Basic YTpi", "sk-one", "alice"),
    ],
)
def test_the_name_behind_a_key(authorization: str | None, x_api_key: str | None, name: str) -> None:
    assert KEYS.name_of(authorization, x_api_key) == name


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "said"),
    [
        (None, None, "No API key"),
        ("", "", "No API key"),
        ("Bearer ", None, "No API key"),
        ("Bearer", "sk-one", "No API key"),
        ("sk-one", None, "No API key"),
        ("Basic sk-one", None, "No API key"),
        ("Bearer None", None, "not known"),
        ("Bearer sk-on", None, "not known"),
        ("Bearer sk-one2", None, "not known"),
        ("Bearer alice:sk-one", None, "not known"),
        ("Bearer sk-wrong", "sk-one", "not known"),
        (None, "SK-ONE", "not known"),
        (None, "\xff\ud800", "not known"),
    ],
)
def test_nobody_else_comes_in(authorization: str | None, x_api_key: str | None, said: str) -> None:
    with pytest.raises(Unauthorized, match=said) as refusal:
        KEYS.name_of(authorization, x_api_key)
    assert "sk-" not in str(refusal.value).lower()


@pytest.mark.parametrize("inline", [None, SecretStr("")])
def test_without_keys_everyone_comes_in(inline: SecretStr | None) -> None:
    assert read_client_keys(inline, None).name_of(None, None) is None


def test_a_file_has_a_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# clients\n\nalice:sk-one\n  bob:sk-#2  \r\n")
    keys = read_client_keys(SecretStr("carol:sk-three"), file)
    assert [keys.name_of(f"Bearer {key}", None) for key in ("sk-one", "sk-#2", "sk-three")] == ["alice", "bob", "carol"]


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("sk-secret", "PROXY_API_KEYS, entry 1: expected name:key"),
        ("alice:", "PROXY_API_KEYS, entry 1: expected name:key"),
        (":sk-secret", "PROXY_API_KEYS, entry 1: expected name:key"),
        ("alice:sk-secret,", "PROXY_API_KEYS, entry 2: expected name:key"),
        ("alice:sk-secret,b b:sk-2", "PROXY_API_KEYS, entry 2: expected name:key"),
        (f"{'a' * 65}:sk-secret", "PROXY_API_KEYS, entry 1: expected name:key"),
        ("alice:sk secret", "PROXY_API_KEYS, entry 1: expected name:key"),
        ("alice:sk-sécret", "PROXY_API_KEYS, entry 1: expected name:key"),
        ("a:sk-secret,b:sk-2,a:sk-3", "PROXY_API_KEYS, entry 3: has the same name as PROXY_API_KEYS, entry 1"),
        ("a:sk-secret,b:sk-secret", "PROXY_API_KEYS, entry 2: has the same key as PROXY_API_KEYS, entry 1"),
    ],
)
def test_a_bad_entry_is_one_line_without_the_key(variable: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_API_KEYS", variable)
    with pytest.raises(ConfigError) as refusal:
        load(ProxySettings)
    [line] = refusal.value.lines
    assert line.startswith(said)
    assert "\n" not in line
    for part in variable.replace(",", ":").split(":"):
        assert len(part) < 3 or part not in line.removeprefix(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ": No such file or directory"),
        (b"", ": holds no key; expected name:key"),
        (b"# none yet\n", ": holds no key; expected name:key"),
        (b"alice:\xff\n", ": expected text in UTF-8"),
        (b"# keys\nalice sk-secret\n", ", line 2: expected name:key"),
    ],
)
def test_a_bad_file_is_one_line(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("PROXY_API_KEYS_FILE", str(file))
    with pytest.raises(ConfigError) as refusal:
        load(ProxySettings)
    [line] = refusal.value.lines
    assert line.startswith(f"PROXY_API_KEYS_FILE={str(file)!r}{said}")
    assert "secret" not in line


def test_the_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_API_KEYS", "alice:sk-secret")
    settings = load(ProxySettings)
    assert isinstance(settings.client_keys, ClientKeys)
    assert settings.client_keys.name_of("Bearer sk-secret", None) == "alice"
    for shown in (repr(settings), str(settings), repr(settings.client_keys), settings.model_dump_json()):
        assert "sk-secret" not in shown
