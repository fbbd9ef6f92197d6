"""A value that cannot work is named in one line; where the proxy listens."""

import pytest

from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError, load


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PROXY_PORT", "http", "PROXY_PORT='http'"),
        ("PROXY_PORT", "70000", "PROXY_PORT='70000'"),
        ("PROXY_TOKEN_TIMEOUT_S", "0", "PROXY_TOKEN_TIMEOUT_S='0'"),
        ("ETCD_ENDPOINT", "http://", "expected one plain-text endpoint"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "URL scheme should be 'http' or 'https'"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://me:hunter2@collector:4318",
            "OTEL_EXPORTER_OTLP_ENDPOINT='http://***@collector:4318': expected a URL without a user and a password",
        ),
        ("ETCD_ENDPOINT", "a:2379,b:2379", "expected one plain-text endpoint"),
        ("BIND_ADDRESS", "http://10.0.0.1", "BIND_ADDRESS='http://10.0.0.1': expected an IP address or a host name"),
        ("PROXY_LISTEN_HOST", "a..b", "PROXY_LISTEN_HOST='a..b': expected an IP address or the name of a host"),
        ("PROXY_LOG_LEVEL", "loud", "PROXY_LOG_LEVEL='loud'"),
        ("PROXY_MAX_BUFFERED_BYTES", "4096", "PROXY_MAX_BUFFERED_BYTES=4096: expected at least PROXY_MAX_BODY_BYTES"),
    ],
)
def test_a_bad_variable_is_one_line(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refusal:
        load(ProxySettings)
    [line] = refusal.value.lines
    assert said in line


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "127.0.0.1"),
        ({"BIND_ADDRESS": "10.0.0.1"}, "10.0.0.1"),
        ({"BIND_ADDRESS": "10.0.0.1", "PROXY_LISTEN_HOST": "0.0.0.0"}, "0.0.0.0"),
        ({"PROXY_LISTEN_HOST": ""}, "127.0.0.1"),
        ({"BIND_ADDRESS": "[::1]"}, "::1"),
        ({"BIND_ADDRESS": "localhost"}, "127.0.0.1"),
    ],
)
def test_where_it_listens(variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BIND_ADDRESS", "PROXY_LISTEN_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(ProxySettings).host == host


@pytest.mark.parametrize(
    ("client", "keeps_s"), [("Go", 90), ("LiteLLM", 120), ("Apache's HttpClient", 180), ("OkHttp", 300)]
)
def test_it_is_the_client_who_closes_an_idle_connection(
    client: str, keeps_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROXY_IDLE_TIMEOUT_S", raising=False)
    assert load(ProxySettings).proxy_idle_timeout_s > keeps_s, client


def test_the_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert "secret" not in repr(load(ProxySettings))
