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

theirs() { cost renoir "$renoir" "$workers" "$place/out" "$place"/in/* && theirs=$cpu; }
ours() { cost highwater "$bench" cart -w "$workers" --output "$place/out" "$place"/in/* && ours=$cpu; }
for ((round = 1; round <= rounds; round++)); do
    if ((round % 2)); then theirs && ours; else ours && theirs; fi
    awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { print ours / theirs }' >>"$place/ratios"
done
sort -n "$place/ratios" | awk '{ r[NR] = $1 } END { printf "CPU, highwater / renoir: %.2f (%.2f to %.2f)\n", r[int((NR + 1) / 2)], r[1], r[NR] }'
