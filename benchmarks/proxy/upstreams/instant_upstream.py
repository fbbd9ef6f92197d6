"""nginx as a producer and a consumer that answer at once: far faster than any proxy, so never what limits one."""

import os
from pathlib import Path

from benchmarks.processes import Launch
from benchmarks.proxy.cpus import pinned
from benchmarks.proxy.upstreams.answers import ENGINES, MODELS, NO_RENDER, PATH, RENDER, whole, whole_stream
from benchmarks.proxy.upstreams.upstream import Upstream

TOKENS = 100
# A POST to a static file is 405 for nginx, so that status is what answers here.
CONFIGURATION = """
daemon off;
worker_processes {workers};
{user}
pid {folder}/nginx.pid;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_buffer_size 64k;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  open_file_cache max=10;
  types {{}}
  root {folder};
  default_type application/json;
  server {{
    listen 127.0.0.1:{prefill} backlog=4096;
    location / {{ return 200 '{models}'; }}
    location = /query {{ return 200 '{engines}'; }}
    location = {render} {{ return 403 '{no_render}'; }}
    location = {path} {{ error_page 405 =200 /whole; try_files /whole =404; }}
    location = /whole {{}}
  }}
  server {{
    listen 127.0.0.1:{decode} backlog=4096;
    location / {{ return 200 '{models}'; }}
    location = {render} {{ return 403 '{no_render}'; }}
    location = {path} {{ error_page 405 =200 /stream; try_files /stream =404; }}
    location = /stream {{ default_type text/event-stream; }}
  }}
}}
"""


def launch(nginx: str, folder: Path, upstream: Upstream, cpus: tuple[int, ...]) -> Launch:
    folder.mkdir()
    (folder / "whole").write_bytes(whole())
    (folder / "stream").write_bytes(whole_stream(TOKENS))
    configuration = CONFIGURATION.format(
        workers=len(cpus),
        user="user root;" if os.geteuid() == 0 else "",  # else its workers cannot read the folder
        folder=folder,
        prefill=upstream.prefill_port,
        decode=upstream.decode_port,
        models=MODELS.decode(),
        engines=ENGINES.decode(),
        path=PATH,
        render=RENDER,
        no_render=NO_RENDER.decode(),
    )
    (folder / "nginx.conf").write_text(configuration)
    command = pinned(cpus, nginx, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf")
    return Launch("nginx", command, dict(os.environ))
