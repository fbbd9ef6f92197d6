#!/bin/bash
# Builds the servers of a Kubernetes cluster from Debian 12's source package: FOLDER/bin/{kube-*,kubelet,pause}.
#
#   build.sh FOLDER VERSION     VERSION: the one that the source package must hold, e.g. 1.20.2
#
# No newer servers are to be had where only Debian's archives, PyPI and npm are reached. Go's compiler and the sources
# are unpacked below FOLDER and removed afterwards; nothing of the machine itself changes. Needs gcc and dpkg-dev.
set -euo pipefail

folder=$(cd "$1" && pwd)
version=$2
work=$folder/build
say() { echo "kubernetes: $* (${SECONDS} s)"; }

# Debian's main archive among this machine's sources, whatever its release.
mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
[ -n "$mirror" ] || { echo "kubernetes: no Debian archive among apt's sources (run apt-get update first)" >&2; exit 1; }

say "compiler and sources"
rm -rf "$work"
mkdir -p "$work"/{lists/partial,cache/archives/partial,go,gopath/src/k8s.io} "$folder/bin"
printf 'deb %s bookworm main\ndeb-src %s bookworm main\n' "$mirror" "$mirror" >"$work/sources.list"
apt=(-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::Etc::sourcelist="$work/sources.list"
    -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
cd "$work"
apt-get "${apt[@]}" update -qq
apt-get "${apt[@]}" download -qq golang-1.19-go golang-1.19-src
for package in golang-*.deb; do dpkg-deb -x "$package" go; done
rm golang-*.deb
apt-get "${apt[@]}" source -qq --download-only kubernetes
dpkg-source -x kubernetes_*.dsc source >/dev/null
found=$(sed -n '1s/.*[(+]\(really\)\{0,1\}\([0-9.]*\)-.*/\2/p' source/debian/changelog)
[ "$found" = "$version" ] || { echo "kubernetes: Debian's package holds $found, needed $version" >&2; exit 1; }

export GOROOT=$work/go/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/gocache
# As the sources are laid out for: without modules, every dependency in their vendor folder.
export GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0
PATH=$GOROOT/bin:$PATH
# The compiler's package keeps its sources in another one, linked by an absolute path.
ln -sfn "$work/go/usr/share/go-1.19/src" "$GOROOT/src"
ln -sfn "$work/go/usr/share/go-1.19/test" "$GOROOT/test"
ln -s "$work/source" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

say "generating pkg/generated/openapi, which the source package lacks"
vendor=k8s.io/kubernetes/vendor/k8s.io
go build -o "$work/openapi-gen" "$vendor/kube-openapi/cmd/openapi-gen"
described=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd staging/src/k8s.io |
    grep -vE '/vendor/|_examples|code-generator|sample-apiserver' | xargs -n1 dirname | sort -u |
    sed "s,^staging/src/k8s.io,$vendor,; /^k8s.io/!s,^,k8s.io/kubernetes/," | paste -sd,)
"$work/openapi-gen" --input-dirs "$described" --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --output-file-base zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt \
    --output-base "$GOPATH/src" --report-filename /dev/null

flags="-s -w"
for package in component-base/version client-go/pkg/version; do
    flags+=" -X $vendor/$package.gitVersion=v$version"
    flags+=" -X $vendor/$package.gitMajor=${version%%.*} -X $vendor/$package.gitMinor=$(echo "$version" | cut -d. -f2)"
done
for server in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do
    say "$server"
    # Without the clouds' providers a binary is half as large.
    go build -trimpath -tags providerless -ldflags "$flags" -o "$folder/bin/" "k8s.io/kubernetes/cmd/$server"
done
gcc -Os -static -DVERSION="$version" -o "$folder/bin/pause" build/pause/linux/pause.c
rm -rf "$work"
say "built: $("$folder/bin/kubelet" --version), $(du -sm "$folder/bin" | cut -f1) MiB"
