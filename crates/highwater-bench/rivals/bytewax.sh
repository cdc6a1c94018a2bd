#!/usr/bin/env bash
# The cart join on Bytewax 0.21.1, on the same input and with the same check as the other contenders.
#
#     crates/highwater-bench/rivals/bytewax.sh [EVENTS] [USERS] [ROUNDS]
#
# Installs the pinned Bytewax and orjson from PyPI into a directory of their own, generates the input, runs Bytewax with Python's
# own json, Bytewax with orjson, and highwater in turn, compares the digest of every output with that foretold, and prints CPU,
# wall time and peak memory of each run.
set -euo pipefail
events=${1:-1000000} users=${2:-60000} rounds=${3:-3} workers=1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=head.sh
. "$here/head.sh"
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet bytewax==0.21.1 orjson==3.10.15

export INPUT="$place/in/0.jsonl" OUTPUT="$place/out" PYTHONPATH="$here" PYTHONDONTWRITEBYTECODE=1
for ((round = 1; round <= rounds; round++)); do
    for json in json orjson; do
        cost "bytewax 0.21.1, $json" env JSON="$json" "$place/venv/bin/python" -m bytewax.run bytewax_cart:flow
    done
    cost highwater "$bench" cart "$INPUT" --output "$OUTPUT"
done
