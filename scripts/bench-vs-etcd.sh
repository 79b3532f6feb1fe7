#!/usr/bin/env bash
# The comparison of docs/benchmarks.md: builds etcd, netsy and netsy-bench, then runs every row
# in alternating rounds. Arguments go to 'netsy-bench suite' (try --help); to run some rows only:
#   scripts/bench-vs-etcd.sh --rows put-100,get-100
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/etcd.sh >/dev/null
packages=(-p netsy-bench -p netsy)
for argument in "$@"; do
  [[ "$argument" == --etcd-only ]] && packages=(-p netsy-bench)
done
cargo build --release "${packages[@]}"
exec target/release/netsy-bench suite "$@"
