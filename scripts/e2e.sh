#!/usr/bin/env bash
# Every test that starts servers: end to end, crashes, and crashes that lose what was not synced.
#
#   scripts/e2e.sh           all of it, against netsy
#   scripts/e2e.sh quick     without the minute-long ones, and with few kills
#   scripts/e2e.sh perf      etcdctl check perf --load=s and m against a release build; wants a quiet machine
#   scripts/e2e.sh etcd      the same expectations against a real etcd (scripts/etcd.sh builds it)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-all}
case $mode in
all | quick | perf | etcd) ;;
*)
    echo "$mode is no mode: all, quick, perf or etcd" >&2
    exit 2
    ;;
esac

if [ "$mode" = perf ]; then
    cargo build --release -p netsy
    NETSY_BIN=$PWD/target/release/netsy cargo test --workspace --test e2e check_perf -- --ignored --test-threads=1
    exit
fi

if [ "$mode" = etcd ]; then
    scripts/etcd.sh
    NETSY_E2E_SERVER=etcd NETSY_CRASH_KILLS=${NETSY_CRASH_KILLS:-20} cargo test -p netsy-e2e
    exit
fi

# Built first and put aside, as the usual build has the same name.
cargo build --workspace --bin netsy --features netsy/crashfs
mkdir -p .tools
cp target/debug/netsy .tools/netsy-crashfs
export NETSY_CRASHFS_BIN=$PWD/.tools/netsy-crashfs
cargo build --workspace --bins
if [ "$mode" = quick ]; then
    NETSY_CRASH_KILLS=${NETSY_CRASH_KILLS:-20} cargo test -p netsy-e2e
    NETSY_CRASH_KILLS=${NETSY_CRASH_KILLS:-20} cargo test -p netsy-e2e --test crash -- --ignored
else
    cargo test -p netsy-e2e -- --include-ignored
fi
