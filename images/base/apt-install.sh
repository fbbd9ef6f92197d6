#!/bin/sh
# Installs Debian packages in an image build and leaves neither package lists nor archives behind.
#
# Usage in a Dockerfile's RUN: apt-install.sh PACKAGE...
# Two build secrets are used where they are given (an empty file counts as not given) and reach no layer:
#   ca           certificates to trust, for a mirror with a private CA
#   apt_sources  apt sources (one-line format) instead of the image's own
set -eu

export APT_CONFIG=/dev/shm/apt.conf # in memory, so not in a layer
: >"$APT_CONFIG"
if [ -s /run/secrets/apt_sources ]; then
    echo 'Dir::Etc { SourceList "/run/secrets/apt_sources"; SourceParts "/dev/null"; };' >>"$APT_CONFIG"
fi
if [ -s /run/secrets/ca ]; then
    echo 'Acquire::https::CaInfo "/run/secrets/ca";' >>"$APT_CONFIG"
fi
# Secrets are readable for root only, so apt must not switch to a user of its own for downloads.
echo 'APT::Sandbox::User "root";' >>"$APT_CONFIG"

apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
