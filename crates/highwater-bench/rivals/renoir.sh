#!/usr/bin/env bash
# The cart join on Renoir 0.6.0, on the same input and with the same check as the other contenders.
#
#     crates/highwater-bench/rivals/renoir.sh [EVENTS] [USERS] [ROUNDS] [WORKERS]
#
# Builds the rival (`rivals/renoir`, a package of its own), generates the input (a file for each worker), runs Renoir and
# highwater without recovery in turn, compares the digest of every output with that foretold, and prints CPU and wall
# time of each run and the ratio of CPU in each round.
set -euo pipefail
events=${1:-1000000} users=${2:-60000} rounds=${3:-7} workers=${4:-1}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=head.sh
. "$here/head.sh"
target=${CARGO_TARGET_DIR:-$root/target}/renoir
(cd "$here/renoir" && cargo build --release --locked --target-dir "$target")
renoir=$target/release/renoir-cart

# CPU seconds of a command; its times are printed.
cost() {
    local name=$1
    shift
    TIMEFORMAT='%U %S %R'
    { time "$@" >/dev/null; } 2>"$place/time"
    check "$name"
    awk -v name="$name" -v round="$round" \
        '{ printf "round %d, %s: %.2f s CPU, %.2f s wall\n", round, name, $1 + $2, $3 > "/dev/stderr"; print $1 + $2 }' <"$place/time"
}
for ((round = 1; round <= rounds; round++)); do
    if ((round % 2)); then
        theirs=$(cost renoir "$renoir" "$workers" "$place/out" "$place"/in/*)
        ours=$(cost highwater "$bench" cart -w "$workers" --output "$place/out" "$place"/in/*)
    else
        ours=$(cost highwater "$bench" cart -w "$workers" --output "$place/out" "$place"/in/*)
        theirs=$(cost renoir "$renoir" "$workers" "$place/out" "$place"/in/*)
    fi
    awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { print ours / theirs }' >>"$place/ratios"
done
sort -n "$place/ratios" | awk '{ r[NR] = $1 } END { printf "CPU, highwater / renoir: %.2f (%.2f to %.2f)\n", r[int((NR + 1) / 2)], r[1], r[NR] }'
