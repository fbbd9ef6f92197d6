#!/bin/bash
# The tests of this folder on a bare GPU host: brings up an engine, loads the images, runs them, ends the engine again.
#
#   run.sh PACKAGES [PYTEST ARGUMENTS]     from a checkout or an unpacked archive of it; PACKAGES: what pack.sh made
#
# Needs root, an NVIDIA driver, Python 3 and what engine.sh needs; no network. Where an engine with the images runs
# already, PACKAGES needs no `debs` and no `images`. With NVIDIA's container toolkit set
# GPU_HOST_FILES=compose.yaml:compose.gpu.yaml; without it the GPUs are named by CDI.
set -euo pipefail

packages=$(realpath "${1:?usage: run.sh PACKAGES [PYTEST ARGUMENTS]}")
shift
cd "$(dirname "$0")/../.."
engine=tests/gpu_host/engine.sh

trap 'bash $engine stop || true' EXIT
bash $engine start "$packages/debs"
for image in "$packages"/images/*.tar*; do
    [ ! -e "$image" ] || docker load --quiet --input "$image"
done
echo "run: images loaded (${SECONDS} s)"
# With the packed plugins alone: a warning of another one that the host has would count as an error.
export PYTHONPATH=$packages/python PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
# The other tests' conftest.py would ask for their packages too.
python3 -m pytest --confcutdir tests/gpu_host -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider -v -s tests/gpu_host "$@"
echo "run: done (${SECONDS} s)"
