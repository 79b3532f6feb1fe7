#!/usr/bin/env bash
# Runs the Kubernetes API server's own storage tests against a server program. See README.md beside this.
#
#   conformance/kubernetes/run.sh [-run REGEX]
#
# NETSY_BIN      the server program; default: the release or debug build in target/
# NETSY_SERVER   which arguments to start it with: a file name in conformance/servers without `.args`; default: netsy
# NETSY_SERVER_LOG=1   print a server's output where its test failed
set -euo pipefail

module=k8s.io/apiserver
version=v0.37.2
sum=h1:9Jq73PeHAA0RThpW7ou6lBcO2+SxLcPrAgleONSMUNQ=
package=pkg/storage/etcd3

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/.tools/work/kubernetes
pattern=.
if [ "${1:-}" = "-run" ]; then pattern=${2:?-run needs a pattern}; fi

server=${NETSY_SERVER:-netsy}
export NETSY_SERVER_ARGS=$root/conformance/servers/$server.args
if [ ! -r "$NETSY_SERVER_ARGS" ]; then
    echo "NETSY_SERVER is $server: there is no $NETSY_SERVER_ARGS" >&2
    exit 2
fi
if [ -z "${NETSY_BIN:-}" ]; then
    for candidate in "$root/target/release/netsy" "$root/target/debug/netsy"; do
        if [ -x "$candidate" ]; then NETSY_BIN=$candidate; break; fi
    done
fi
if [ ! -x "${NETSY_BIN:-}" ]; then
    echo "no server program: build netsy, or set NETSY_BIN" >&2
    exit 2
fi
NETSY_BIN=$(realpath "$NETSY_BIN")
export NETSY_BIN
if ! command -v go >/dev/null; then
    echo "no go: the tests are a Go module; install Go 1.26 or later" >&2
    exit 2
fi

mkdir -p "$work"
cd "$work"
downloaded=$(go mod download -json "$module@$version")
field() { printf '%s\n' "$downloaded" | sed -n "s/^[[:space:]]*\"$1\": \"\(.*\)\",\{0,1\}$/\1/p"; }
if [ "$(field Sum)" != "$sum" ]; then
    echo "$module $version has the sum $(field Sum), expected $sum" >&2
    exit 2
fi
source=$(field Dir)

# A copy outside the repository, as Go lets nobody replace a file in its module cache; in the copy their
# package `testserver` gives way to ours.
copy=$work/$version
if [ ! -e "$copy/.complete" ]; then
    rm -rf "$copy"
    cp -r "$source" "$copy"
    chmod -R u+w "$copy"
    touch "$copy/.complete"
fi
cp "$here/testserver/testserver.go" "$copy/$package/testserver/test_server.go"
echo "compiling the tests of $module $version ($package)"
(cd "$copy" && nice -n 10 go test -c -o "$work/etcd3.test" "./$package")

echo "running them against $NETSY_BIN"
cd "$copy/$package"
"$work/etcd3.test" -test.list "$pattern" | grep '^Test' | sort >"$work/tests" || true
status=0
"$work/etcd3.test" -test.v -test.timeout 20m -test.run "$pattern" >"$work/output" 2>&1 || status=$?

# A test that never reported (the whole run died in or before it) has failed.
named() { sed -n "s/^--- $1: \([^ ]*\) .*/\1/p" "$work/output" | sort; }
named PASS >"$work/passed"
named SKIP >"$work/skipped"
sort "$work/passed" "$work/skipped" | comm -23 "$work/tests" - >"$work/failed"
sed -n 's/^| `\(Test[^`]*\)` |.*/\1/p' "$here/README.md" | sort >"$work/known"
comm -23 "$work/failed" "$work/known" >"$work/unexpected"

while read -r test; do
    echo
    if grep -qxF "$test" "$work/known"; then
        echo "failed, as README.md says: $test"
    else
        echo "failed: $test"
    fi
    sed -n "s/^ *--- FAIL: \($test\/[^ ]*\) .*/    \1/p" "$work/output"
done <"$work/failed"
comm -12 "$work/passed" "$work/known" | sed 's/^/passes now, take it out of README.md: /'
if [ $status -ne 0 ] && [ ! -s "$work/failed" ]; then
    echo "every test passed, yet the run ended with status $status" >&2
    echo "the run as a whole" >>"$work/unexpected"
fi

echo
echo "output: $work/output"
count() { wc -l <"$work/$1" | tr -d ' '; }
if [ "$(count skipped)" -gt 0 ]; then
    echo "$(count passed) passed, $(count failed) failed, $(count skipped) skipped"
else
    echo "$(count passed) passed, $(count failed) failed"
fi
[ ! -s "$work/unexpected" ]
