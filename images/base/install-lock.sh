#!/bin/sh
# Makes a Python environment from a lock file in an image build: every hash is checked, nothing is resolved.
#
# Usage in a Dockerfile's RUN: install-lock.sh ENVIRONMENT LOCK
# Used where given, and not kept in a layer:
#   secret ca        certificates to trust, for an index with a private CA
#   secret pip_conf  a pip.conf; its index-url is used instead of PyPI
#   /wheels          a folder of wheels, e.g. PyTorch's CPU build, which is not on PyPI
set -eu

environment=$1
lock=$2
export UV_CACHE_DIR=/var/cache/uv # where the Dockerfiles mount the builds' shared cache
here=$(dirname "$0")

if [ -s /run/secrets/ca ]; then
    export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
if [ -s /run/secrets/pip_conf ]; then
    index=$(sed -n 's/^[[:space:]]*index-url[[:space:]]*=[[:space:]]*//p' /run/secrets/pip_conf)
    if [ -n "$index" ]; then
        export PIP_INDEX_URL="$index" UV_DEFAULT_INDEX="$index"
    fi
fi

python3 -m venv /opt/uv
/opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r "$here/requirements.lock"

set --
if ls /wheels/*.whl >/dev/null 2>&1; then
    set -- --find-links /wheels
fi
# Only where no CPU wheel of PyTorch was lent: an index that cannot be reached costs minutes of retries.
if grep -q '^torch==.*+cpu' "$lock" && ! ls /wheels/torch-*+cpu*.whl >/dev/null 2>&1; then
    set -- "$@" --torch-backend cpu
fi
/opt/uv/bin/uv venv --quiet --no-cache --python /usr/bin/python3 "$environment"
# Bytecode now: the containers' root is read-only, so Python could not keep it later.
/opt/uv/bin/uv pip install --python "$environment" --no-deps --require-hashes --link-mode copy --compile-bytecode \
    "$@" -r "$lock"
