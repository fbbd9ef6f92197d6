#!/bin/sh
# Makes the environment `tools`, which everything else runs on, from a bare Python >= 3.11. Prints nothing when it is up to date.
#
# It always lies in .stack/venv/tools of the clone: `.env`, which can move everything else, is read by what runs in it.
set -eu
cd "$(dirname "$0")/.."

lock=stack/requirements.lock
tools=.stack/venv/tools
stamp=$tools/installed-from.sha256
digest=$(sha256sum "$lock" | cut -d' ' -f1)

up_to_date() { [ -x "$tools/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ]; }

find_python() {
    for name in python3.11 python3 python3.12 python3.13 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    echo "Python: found none >= 3.11; needed to start; fix: sudo apt-get install python3.11 python3.11-venv" >&2
    return 1
}

up_to_date && exit 0
mkdir -p "$(dirname "$tools")"
# Two `make up` at once: the second waits here and then finds the work done.
exec 9>"$tools.lock"
flock 9
up_to_date && exit 0

python=$(find_python)
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing system package: python3-venv"
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
    else
        echo "Python: $python has no ensurepip; needed for a virtual environment; fix: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi

echo "environment tools: installing from $lock"
rm -rf "$tools"
"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
echo "$digest" >"$stamp"
