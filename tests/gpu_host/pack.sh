#!/bin/bash
# Gathers what run.sh needs on a GPU host without a network: FOLDER/debs, FOLDER/python and FOLDER/images.
#
#   pack.sh FOLDER [PYTHON]     PYTHON: the host's version, 3.12 unless given
#
# Runs where `make test` can (Debian's mirror and PyPI are reached, an engine answers). The images are those that
#   docker compose -f compose.yaml -f compose.gpu.yaml build
# made. About 11 GB, nearly all of it the vLLM image.
set -euo pipefail

mkdir -p "${1:?usage: pack.sh FOLDER [PYTHON]}"
folder=$(realpath "$1")
python=${2:-3.12}
cd "$(dirname "$0")/../.."
tests_python=$(.stack/venv/tools/bin/python -m stack.install --print-folder tests)/bin/python
say() { echo "pack: $* (${SECONDS} s)"; }

# An engine, and the libraries of these programs that a machine may lack. Of Debian 13, whose engine knows CDI.
debs=(docker.io docker-cli docker-compose containerd runc tini iptables iproute2
    libbpf1 libcap2 libdb5.3t64 libelf1t64 libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0
    libnftnl11 libseccomp2 libselinux1 libtirpc3t64 libxtables12)
say "${#debs[@]} packages of Debian 13"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder/debs" "$work/lists/partial" "$work/cache/archives/partial"
apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $3 !~ /-/ { print "deb", $2, "trixie main" }' | sort -u >"$work/trixie.list"
apt=(-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::Etc::sourcelist="$work/trixie.list"
    -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update -qq
(cd "$folder/debs" && apt-get "${apt[@]}" download -qq "${debs[@]/%//trixie}")

say "pytest and the stack's own needs, for Python $python"
"$tests_python" -m uv pip install --quiet --python-version "$python" --only-binary :all: --link-mode copy \
    --target "$folder/python" --constraint tests/requirements.lock \
    pytest pytest-asyncio pytest-timeout pydantic-settings psutil supervisor

say "images"
mkdir -p "$folder/images"
docker save pd-stack/vllm:0.1.0-gpu pd-stack/etcd:0.1.0 pd-stack/proxy:0.1.0 pd-stack/loadtest:0.1.0 >"$folder/images/stack.tar"
say "made $(du -sh "$folder" | cut -f 1)"
