#!/usr/bin/env bash
# The cart join on Bytewax 0.21.1, on the same input and with the same check as the other contenders.
#
#     crates/highwater-bench/rivals/bytewax.sh [EVENTS] [USERS] [ROUNDS]
#
# Installs the pinned Bytewax from PyPI into a directory of its own, generates the input, runs Bytewax and highwater
# in turn, compares the digest of every output with that foretold, and prints CPU and wall time of each run.
set -euo pipefail
events=${1:-200000} users=${2:-12000} rounds=${3:-3} workers=1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=head.sh
. "$here/head.sh"
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet bytewax==0.21.1

TIMEFORMAT='%U s user, %S s system, %R s wall'
for ((round = 1; round <= rounds; round++)); do
    echo "round $round, bytewax 0.21.1:"
    (cd "$here" && time INPUT="$place/in/0.jsonl" OUTPUT="$place/out" PYTHONDONTWRITEBYTECODE=1 \
        "$place/venv/bin/python" -m bytewax.run bytewax_cart:flow)
    check bytewax
    echo "round $round, highwater:"
    time "$bench" cart "$place/in/0.jsonl" --output "$place/out" >"$place/said"
    check highwater
done
