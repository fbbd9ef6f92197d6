#!/bin/sh
# Finds or makes what the image builds need on this machine beyond the repository, and prints it as NAME=value lines.
#
# `make up` uses it. By hand: export $(images/build-inputs.sh); docker compose build. Progress goes to stderr.
# A variable that is set already is left alone. On a machine that reaches Docker Hub, PyPI and PyTorch's index directly,
# it finds nothing to do.
#   BASE_IMAGE          only where the pinned Debian image is neither here nor to be pulled: made with debootstrap
#   BUILD_APT_SOURCES   with such a base, which holds no mirror's name: this machine's own Debian mirror
#   BUILD_CA_FILE       this machine's certificates, where SSL_CERT_FILE, PIP_CERT or REQUESTS_CA_BUNDLE names them
#   BUILD_PIP_CONF      the first of pip's configuration files that sets index-url
#   WHEELS_IMAGE        the wheels of the folder that pip's find-links names, as an image that builds mount
set -eu

here=$(cd "$(dirname "$0")" && pwd)
state=${STACK_DIR:-$here/../.stack}/build
debootstrap_base=pd-stack/base:bookworm

docker info >/dev/null 2>&1 || { echo "build-inputs: no Docker engine answers" >&2; exit 1; }

base=${BASE_IMAGE:-}
if [ -z "$base" ]; then
    pinned=$(sed -n 's/^ARG BASE_IMAGE=//p' "$here/etcd/Dockerfile")
    if docker image inspect "$debootstrap_base" >/dev/null 2>&1; then
        base=$debootstrap_base
    elif docker image inspect "$pinned" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$pinned" >/dev/null 2>&1; then
        base=$pinned
    else
        echo "build-inputs: $pinned cannot be pulled here" >&2
        "$here/base/make-base.sh" "$debootstrap_base"
        base=$debootstrap_base
    fi
    echo "BASE_IMAGE=$base"
fi

if [ "$base" = "$debootstrap_base" ] && [ -z "${BUILD_APT_SOURCES:-}" ]; then
    mkdir -p "$state"
    # The archives of this machine's own Debian release, with its suites renamed to the base's.
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk '$1 == "Debian" { sub(/^[a-z]+/, "bookworm", $3); print "deb", $2, $3, "main" }' | sort -u >"$state/apt_sources"
    echo "BUILD_APT_SOURCES=$(cd "$state" && pwd)/apt_sources"
fi

if [ -z "${BUILD_CA_FILE:-}" ]; then
    for file in "${SSL_CERT_FILE:-}" "${PIP_CERT:-}" "${REQUESTS_CA_BUNDLE:-}"; do
        if [ -s "$file" ]; then
            echo "BUILD_CA_FILE=$file"
            break
        fi
    done
fi

if [ -z "${BUILD_PIP_CONF:-}" ]; then
    for file in "${PIP_CONFIG_FILE:-}" "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" /etc/pip.conf; do
        if [ -s "$file" ] && grep -q '^[[:space:]]*index-url' "$file"; then
            echo "BUILD_PIP_CONF=$file"
            break
        fi
    done
fi

wheels=${PIP_FIND_LINKS:-${UV_FIND_LINKS:-}}
if [ -z "${WHEELS_IMAGE:-}" ] && [ -d "$wheels" ]; then
    # Named after names, sizes and dates, so that an unchanged folder is imported once.
    content=$(cd "$wheels" && find . -maxdepth 1 -name '*.whl' -printf '%f %s %T@\n' | sort | sha256sum | cut -c1-12)
    image=pd-stack/wheels:$content
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        echo "build-inputs: importing the wheels of $wheels as $image" >&2
        (cd "$wheels" && find . -maxdepth 1 -name '*.whl' -print0 | tar --null --files-from - -c) |
            docker import - "$image" >/dev/null
    fi
    echo "WHEELS_IMAGE=$image"
fi
