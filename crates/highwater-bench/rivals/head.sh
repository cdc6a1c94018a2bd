# Sourced by the scripts beside it, which have set `events`, `users`, `workers` and `here`: a directory that goes with the script,
# the bench, the generated input in $place/in (a file for each worker), the check of $place/out, and the cost of a contender.
root=$(cd "$here/../../.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

bench=${HIGHWATER_BENCH:-}
if [ -z "$bench" ]; then
    (cd "$root" && cargo build --release --locked -p highwater-bench)
    bench=${CARGO_TARGET_DIR:-$root/target}/release/highwater-bench
fi
mkdir "$place/in"
expected=$("$bench" generate --events "$events" --users "$users" --files "$workers" --out "$place/in")
echo "$events events, $users users, $workers workers: $expected"

# Ends the script if the output of a contender is wrong.
check() {
    local got
    got=$("$bench" digest "$place/out")
    [ "$got" = "$expected" ] || { echo "error: $1 has made $got, not $expected: no price for a wrong answer" >&2; exit 1; }
    rm "$place/out"
}

# What a contender has left becomes $place/out, for a script whose contenders leave it elsewhere.
gather() { :; }

# Runs a contender, checks its output and prints what it cost; its CPU seconds are left in $cpu.
cost() {
    local name=$1 wall memory
    shift
    read -r cpu wall memory < <(python3 "$here/cost.py" "$@")
    gather
    check "$name"
    echo "round $round, $name: $cpu s CPU, $wall s wall, $memory MB"
}
