"""Prometheus in the processes-only way: the same configuration with this machine's addresses. Becomes the program.

Usage: python -m observability.prometheus     (supervisord starts it where COMPOSE_FILE has compose.observability.yaml)
The program is Debian's package `prometheus`. Its data stay in STACK_DIR/prometheus.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from stack.configuration import env_file
from stack.configuration.environment import load_or_exit
from stack.configuration.settings import REPOSITORY, StackSettings
from stack.network import addresses

FOLDER = REPOSITORY / "observability"
LAST_JOB = "\n  - job_name: observability\n"  # of containers that are none here
STORE_JOB = "\n  # The master of compose.store.yaml's"  # before it
STORE_MASTER = re.compile(r"dns_sd_configs: .*store-master.*")
RETENTION = "15d"
# As in compose.observability.yaml: nobody but this machine asks it, for it asks nobody for a key.
HOST = "127.0.0.1"


def configuration(settings: StackSettings) -> str:
    """observability/prometheus.yml for this machine."""
    text, _, _ = (FOLDER / "prometheus.yml").read_text().partition(LAST_JOB if settings.has_store else STORE_JOB)
    master = addresses.join(settings.host_ip, settings.store_port + 1)
    text = STORE_MASTER.sub(f'static_configs: [{{targets: ["{master}"]}}]', text)
    text = text.replace("proxy:8000", urlsplit(settings.proxy_url).netloc).replace("etcd:2379", settings.etcd)
    text = text.replace("rules/", f"{FOLDER}/rules/")
    key = settings.prometheus_key_file
    authorization = f"authorization: {{credentials_file: {json.dumps(str(key))}}}" if key else ""
    return re.sub(r"authorization: \{.*\}", lambda _: authorization, text)


def command(settings: StackSettings, file: Path) -> list[str]:
    return [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={file.parent / 'data'}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={addresses.join(HOST, settings.prometheus_port)}",
    ]


def main() -> None:
    env_file.apply_or_exit()
    settings = load_or_exit(StackSettings)
    folder = settings.stack_dir / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "prometheus.yml"
    file.write_text(configuration(settings))
    words = command(settings, file)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
