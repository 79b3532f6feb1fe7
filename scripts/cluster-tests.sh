#!/usr/bin/env bash
# Clusters of real processes under faults, each run's history checked (crates/cluster-tests).
#
#   scripts/cluster-tests.sh                  the short set, against netsy
#   scripts/cluster-tests.sh all              every scenario
#   scripts/cluster-tests.sh NAME...          some; more arguments are passed on (--seed, --times, --keep, --nodes)
#   scripts/cluster-tests.sh etcd [NAME...]   the same scenarios against a real etcd (scripts/etcd.sh builds it)
#
# As root, nodes get network namespaces and small disks of their own, without leaving any behind; otherwise scenarios
# that cut the network or fill a disk say that they were skipped. SeaweedFS comes from scripts/tools.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

server=netsy
if [ "${1:-}" = etcd ]; then
    server=etcd
    shift
    scripts/etcd.sh >/dev/null
else
    scripts/tools.sh --no-s3s >/dev/null
fi
[ $# -gt 0 ] || set -- ci
cargo build -p netsy -p netsy-cluster-tests
exec target/debug/netsy-cluster-tests run "$@" --server "$server"
