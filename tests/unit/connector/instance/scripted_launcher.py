"""The launcher with a scripted server in place of vLLM: python scripted_launcher.py"""

import sys
from pathlib import Path

from connector.instance import launcher, vllm_command
from stack.instances.settings import LauncherSettings

SERVER = Path(__file__).with_name("scripted_vllm.py")


def command(settings: LauncherSettings, instance_id: str) -> list[str]:
    return [sys.executable, str(SERVER), str(settings.port)]


vllm_command.command = command
vllm_command.vllm_version = lambda: "0.32.0+cpu"
launcher.STOP_TIMEOUT_S = 1.0
launcher.SILENCE_S = 8.0
sys.exit(launcher.main())
