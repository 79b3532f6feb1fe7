#!/usr/bin/env bash
# Builds etcd, etcdctl and etcdutl of one pinned version from their Go modules into
# .tools/etcd-VERSION and points .tools/{etcd,etcdctl,etcdutl} at them. Does nothing when
# they are there already, so it is cheap to call first in any script.
#
# Needs: go (1.26 or later) and a Go module proxy or cache.
# Usage: scripts/etcd.sh            build; prints the folder the programs are in
#        ETCD_VERSION=v3.6.16 scripts/etcd.sh   another version, beside the pinned one
set -euo pipefail

version="${ETCD_VERSION:-v3.7.3}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="$root/.tools"
dir="$tools/etcd-$version"

command -v go >/dev/null || {
  echo "scripts/etcd.sh: no 'go' in PATH: install Go 1.26 or later to build etcd $version" >&2
  exit 1
}

mkdir -p "$tools"
# Two callers at once: the second waits and finds the work done.
exec 9>"$tools/etcd.lock"
flock 9

if ! [[ -x "$dir/etcd" && -x "$dir/etcdctl" && -x "$dir/etcdutl" ]]; then
  work="$(mktemp -d "$tools/etcd-build.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  # etcd's modules carry 'replace' lines, which 'go install MODULE@VERSION' refuses; a module
  # of our own that requires them is not affected by those lines.
  cat >"$work/go.mod" <<MOD
module etcd-tools

go 1.26

require (
	go.etcd.io/etcd/server/v3 $version
	go.etcd.io/etcd/etcdctl/v3 $version
	go.etcd.io/etcd/etcdutl/v3 $version
)
MOD
  mkdir "$work/out"
  (
    cd "$work"
    export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false"
    for pair in etcd:server etcdctl:etcdctl etcdutl:etcdutl; do
      echo "scripts/etcd.sh: building ${pair%%:*} $version" >&2
      nice -n 10 go build -ldflags="-s -w" -o "out/${pair%%:*}" "go.etcd.io/etcd/${pair##*:}/v3" >&2
    done
  )
  mkdir -p "$dir"
  mv "$work"/out/* "$dir/"
fi

for name in etcd etcdctl etcdutl; do
  ln -sfn "etcd-$version/$name" "$tools/$name"
done
echo "$dir"
