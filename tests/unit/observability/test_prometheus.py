"""Prometheus' files as Prometheus' own tool reads them, and the same configuration without Docker."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability import prometheus
from observability.prometheus import FOLDER, command, configuration
from stack.configuration.settings import StackSettings

RULES = ("recording.yml", "alerts.yml")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(text: str) -> dict[str, Any]:
    return {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}


@pytest.mark.parametrize("arguments", [("check", "rules"), ("test", "rules")], ids=" ".join)
def test_promtool_finds_the_rules_right(arguments: tuple[str, str]) -> None:
    promtool(*arguments, *(f"rules/{name}" for name in (("rules_test.yml",) if "test" in arguments else RULES)))


def test_every_alert_is_walked_through_in_promtools_time() -> None:
    alerts = yaml.safe_load((FOLDER / "rules/alerts.yml").read_text())["groups"][0]["rules"]
    walked = yaml.safe_load((FOLDER / "rules/rules_test.yml").read_text())["tests"]
    fire = {
        test["alertname"] for walk in walked for test in walk.get("alert_rule_test", ()) if test["exp_alerts"] != []
    }
    assert fire == {alert["alert"] for alert in alerts}
    assert all(alert["labels"]["severity"] in ("page", "warning") for alert in alerts)
    assert all("summary" in alert["annotations"] for alert in alerts)


def test_the_configuration_of_the_containers() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    found = jobs((FOLDER / "prometheus.yml").read_text())
    assert list(found) == ["proxy", "vllm", "etcd", "store", "observability"]
    assert found["proxy"]["honor_labels"] is True, "its label `instance` is the vLLM server"


def test_without_docker_it_has_the_addresses_of_this_machine(tmp_path: Path) -> None:
    settings = StackSettings(proxy_port=8001, etcd_endpoint="[::1]:2400", bind_address="::1")
    text = configuration(settings)
    found = jobs(text)
    assert list(found) == ["proxy", "vllm", "etcd"]
    assert found["proxy"]["static_configs"] == [{"targets": ["[::1]:8001"]}]
    assert found["vllm"]["http_sd_configs"] == [
        {"url": "http://[::1]:8001/instances/targets", "refresh_interval": "15s"}
    ]
    assert found["etcd"]["static_configs"] == [{"targets": ["[::1]:2400"]}]
    file = tmp_path / "prometheus.yml"
    file.write_text(text)
    promtool("check", "config", str(file))  # which reads the rules as well


def test_without_docker_a_store_of_this_machine_is_asked_too(tmp_path: Path) -> None:
    text = configuration(StackSettings(stack_store=True, store_port=50061, vllm_host_ip="::1"))
    found = jobs(text)
    assert list(found) == ["proxy", "vllm", "etcd", "store"]
    assert found["store"] == {"job_name": "store", "static_configs": [{"targets": ["[::1]:50062"]}]}
    file = tmp_path / "prometheus.yml"
    file.write_text(text)
    promtool("check", "config", str(file))


def test_where_the_proxy_asks_for_keys_prometheus_has_one(tmp_path: Path) -> None:
    key = tmp_path / "key \\1"
    text = configuration(StackSettings(prometheus_key_file=key))
    assert jobs(text)["vllm"]["http_sd_configs"][0]["authorization"] == {"credentials_file": str(key)}


def test_it_listens_on_loopback_whatever_the_rest_does(tmp_path: Path) -> None:
    words = command(StackSettings(bind_address="0.0.0.0", prometheus_port=9999), tmp_path / "prometheus.yml")
    assert words[0] == "prometheus"
    assert "--web.listen-address=127.0.0.1:9999" in words
    assert f"--storage.tsdb.path={tmp_path}/data" in words


def test_the_program_takes_this_processs_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    became: list[list[str]] = []
    monkeypatch.setenv("STACK_ENV_FILE", "/dev/null")
    monkeypatch.setenv("STACK_DIR", str(tmp_path))
    monkeypatch.setattr(os, "execvp", lambda name, words: became.append(words))
    prometheus.main()
    (words,) = became
    file = tmp_path / "prometheus" / "prometheus.yml"
    assert f"--config.file={file}" in words
    assert jobs(file.read_text())["proxy"]["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
