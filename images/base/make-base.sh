#!/bin/sh
# Makes the images' base, Debian 12, with debootstrap: for build machines that reach a Debian mirror but no image registry.
#
# Usage: images/base/make-base.sh IMAGE        e.g. pd-stack/base:bookworm
# Needs root, apt and a Docker engine; installs debootstrap where it is missing. Takes the mirror from this machine's own apt sources, checks Debian's
# signatures, and leaves the mirror's name out of the image. Does nothing where IMAGE is there already.
# Build on it with BASE_IMAGE=IMAGE (.env or environment).
set -eu

image=${1:?usage: make-base.sh IMAGE}
suite=bookworm
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

if docker image inspect "$image" >/dev/null 2>&1; then
    echo "make-base: $image is there already" >&2
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "make-base: needs root, because debootstrap does" >&2; exit 1; }
if ! command -v debootstrap >/dev/null; then
    echo "make-base: installing debootstrap" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null
fi

# Debian's main archive among this machine's sources, whatever its release; security and updates are other archives.
mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
[ -n "$mirror" ] || { echo "make-base: no Debian archive among apt's sources (run apt-get update first)" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM
echo "make-base: debootstrap of $suite (about 30 seconds)" >&2
debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" | sed 's|://[^/[:space:]]*@|://***@|g' >&2; rm -f "$root.log"; exit 1; }
rm -f "$root.log"

# As in Debian's own slim image: no documentation, translations, package lists or downloaded packages; the same for
# what later builds install.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'SLIM'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
SLIM
find "$root/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/* \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/etc/apt/sources.list \
    "$root"/etc/resolv.conf "$root"/etc/hostname

tar -C "$root" --numeric-owner -c . |
    docker import --change 'CMD ["bash"]' --message "debootstrap --variant=minbase $suite" - "$image" >/dev/null
echo "make-base: made $image" >&2
