#!/bin/sh
# Brings up a Docker engine with compose v2 on a Debian 12 machine that has none, e.g. a CI machine.
#
#   .ci/docker.sh         install and start what is missing; does nothing where `docker info` answers
#   .ci/docker.sh stop    end the engine that this script started; another one is left alone
#
# Needs root. The engine is Debian's docker.io, started by hand because a CI machine may have no init system. Debian 12
# has no compose v2, so that comes from Debian 13's package (its plugin needs no newer C library); only the plugin is
# unpacked, and the machine's own apt sources stay as they are.
set -eu

state=${STACK_DIR:-$(cd "$(dirname "$0")/.." && pwd)/.stack}/docker
pidfile=$state/dockerd.pid
log=$state/dockerd.log
limit_s=60

say() { echo "docker.sh: $*"; }

install_engine() {
    say "installing docker.io"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker.io iptables >"$state/apt.log" 2>&1 ||
        { tail -n 20 "$state/apt.log" >&2; exit 1; }
}

install_compose() {
    say "installing compose v2 from Debian 13's docker-compose package"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT INT TERM
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    # The machine's Debian archives with the release exchanged: the same mirror, nothing written outside $work.
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $3 !~ /-/ { print "deb", $2, "trixie main" }' | sort -u >"$work/trixie.list"
    set -- -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Dir::Etc::sourcelist="$work/trixie.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root
    apt-get "$@" update -qq
    (cd "$work" && apt-get "$@" download -qq docker-compose/trixie)
    dpkg -x "$work"/docker-compose_*.deb "$work/unpacked"
    install -D -m 0755 "$work/unpacked/usr/libexec/docker/cli-plugins/docker-compose" \
        /usr/local/lib/docker/cli-plugins/docker-compose
}

start_engine() {
    say "starting dockerd, log in $log"
    setsid nohup dockerd --pidfile "$pidfile" >"$log" 2>&1 </dev/null &
    launched=$!
    waited=0
    until docker info >/dev/null 2>&1; do
        if ! kill -0 "$launched" 2>/dev/null || [ "$waited" -ge "$limit_s" ]; then
            say "dockerd does not answer; the end of its log:" >&2
            tail -n 20 "$log" >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
    say "dockerd runs, pid $(cat "$pidfile")"
}

stop_engine() {
    engine=$(cat "$pidfile" 2>/dev/null || true)
    if [ -z "$engine" ] || ! kill "$engine" 2>/dev/null; then
        say "no engine of this script runs"
        return
    fi
    say "stopping dockerd, pid $engine"
    waited=0
    while kill -0 "$engine" 2>/dev/null && [ "$waited" -lt "$limit_s" ]; do
        sleep 1
        waited=$((waited + 1))
    done
}

mkdir -p "$state"
case ${1:-start} in
stop) stop_engine ;;
start)
    command -v dockerd >/dev/null || docker info >/dev/null 2>&1 || install_engine
    docker compose version >/dev/null 2>&1 || install_compose
    docker info >/dev/null 2>&1 || start_engine
    say "engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
    ;;
*)
    echo "usage: docker.sh [start|stop]" >&2
    exit 2
    ;;
esac
