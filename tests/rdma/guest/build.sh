#!/bin/bash
# Makes a Debian 12 guest with soft-RoCE: FOLDER/vmlinuz, FOLDER/initrd.gz, FOLDER/root.img and FOLDER/versions.
#
#   build.sh FOLDER PACKAGES     PACKAGES: a folder of Python packages for the guest
#
# Needs root, because debootstrap does, and a Debian machine: the mirror is that of its own apt sources. The kernel's
# package is unpacked, not installed. Nothing of the machine itself changes.
set -euo pipefail

folder=$(cd "$1" && pwd)
packages=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
root=$folder/root
say() { echo "guest: $* (${SECONDS} s)"; }

# Debian's main archive among this machine's sources, whatever its release; security and updates are other archives.
mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
[ -n "$mirror" ] || { echo "guest: no Debian archive among apt's sources (run apt-get update first)" >&2; exit 1; }

# Libraries and tools of RDMA; an engine for compose.rdma.yaml.
guest_packages=python3,libibverbs1,ibverbs-providers,ibverbs-utils,librdmacm1,rdma-core,iproute2,kmod,libnuma1,libcurl4
guest_packages+=,procps,busybox-static,util-linux,docker.io
say "debootstrap"
rm -rf "$root"
debootstrap --variant=minbase --include="$guest_packages" --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    bookworm "$root" "$mirror" >"$folder/debootstrap.log" 2>&1 || { tail -n 20 "$folder/debootstrap.log" >&2; exit 1; }

say "kernel, and compose v2 from Debian 13, which first has it"
downloads=$folder/downloads
rm -rf "$downloads"
mkdir -p "$downloads/lists/partial" "$downloads/cache/archives/partial"
printf 'deb %s %s main\n' "$mirror" bookworm "$mirror" trixie >"$downloads/sources.list"
apt=(-o Dir::State::lists="$downloads/lists" -o Dir::Cache="$downloads/cache" -o Dir::Etc::sourcelist="$downloads/sources.list"
    -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0)
apt-get "${apt[@]}" update -qq
kernel=$(apt-cache "${apt[@]}" show linux-image-amd64/bookworm | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
(cd "$downloads" && apt-get "${apt[@]}" download -qq "$kernel/bookworm" docker-compose/trixie)
dpkg-deb -x "$downloads/$kernel"_*.deb "$downloads/kernel"
dpkg-deb -x "$downloads"/docker-compose_*.deb "$downloads/compose"
install -D -m 0755 "$downloads/compose/usr/libexec/docker/cli-plugins/docker-compose" \
    "$root/usr/local/lib/docker/cli-plugins/docker-compose"
version=${kernel#linux-image-}
cp "$downloads/kernel/boot/vmlinuz-$version" "$folder/vmlinuz"

say "initrd with the modules in the order of loading"
# rdma_rxe needs crc32_generic without saying so: "failed to init crc32 algorithm".
modules=(virtio_pci virtio_blk crc32c_generic ext4 virtio_net 9p 9pnet_virtio virtio_rng dummy veth overlay crc32_generic
    ib_uverbs rdma_ucm rdma_rxe)
depmod -b "$downloads/kernel" "$version"
initrd=$folder/initrd
rm -rf "$initrd"
mkdir -p "$initrd"/{bin,modules,dev,proc,sysroot}
cp "$root/bin/busybox" "$initrd/bin/"
install -m 0755 "$here/initrd.sh" "$initrd/init"
for module in "${modules[@]}"; do
    modprobe -d "$downloads/kernel" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" "$initrd/modules/"
    basename "$file"
done >"$initrd/modules/order"
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$folder/initrd.gz"

say "image"
cp -r "$packages"/. "$root/usr/local/lib/python3.11/dist-packages/"
chroot "$root" python3 -m compileall -q /usr/local/lib/python3.11/dist-packages >/dev/null || true  # some hold templates
install -m 0755 "$here/init.sh" "$root/init.sh"
mkdir -p "$root"/{repository,results,var/lib/docker,var/lib/containerd}
printf '127.0.0.1 localhost\n127.0.1.1 guest\n10.0.2.15 guest-rdma\n' >"$root/etc/hosts"  # etcd resolves localhost
: >"$root/etc/resolv.conf"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$folder/root.img" "$(($(du -sm "$root" | cut -f1) + 200))M"
printf 'kernel %s, Debian %s\n' "$version" "$(cat "$root/etc/debian_version")" >"$folder/versions"
rm -rf "$root" "$downloads" "$initrd"
say "made: $(cat "$folder/versions"), $(du -sm "$folder/root.img" | cut -f1) MiB"
