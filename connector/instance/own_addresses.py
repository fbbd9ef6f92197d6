"""Whether the addresses of an instance's settings can be used on this machine: asked once, before vLLM starts.

Not when settings are read: the doctor reads them too, and not on the machine or in the container that will use them.
"""

from stack import etcd
from stack.instances.settings import LauncherSettings
from stack.network import addresses


def obstacle(settings: LauncherSettings) -> str:
    """One line that names the variable; empty when nothing speaks against them."""
    file = f"MOONCAKE_CONFIG_PATH={str(settings.mooncake_config_path)!r}: "
    try:
        host = settings.host
    except ValueError as error:
        key = f"{settings.role}_url"
        return f"{file}{key}={getattr(settings.mooncake, key)!r}: {error}"
    from_file = settings.mooncake_config_path and not settings.vllm_host_ip
    host_name = f"{file}{settings.role}_url" if from_file else "VLLM_HOST_IP"
    for name, address in ((host_name, host), ("LISTEN_HOST", settings.listen_host)):
        if address and (reason := addresses.obstacle(address)):
            return f"{name}={address!r}: expected an address to listen on; {reason}"
    etcds = [("ETCD_ENDPOINT", settings.etcd_endpoint or "127.0.0.1")]
    if settings.mooncake_config_path:
        etcds.append((f"{file}metadata_server", settings.mooncake.metadata_server))
    for name, endpoint in etcds:
        try:
            addresses.numeric(etcd.address(endpoint)[0])
        except ValueError as error:
            return f"{name}={endpoint!r}: {error}"
    return ""
