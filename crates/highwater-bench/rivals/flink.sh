#!/usr/bin/env bash
# The cart join on Flink 1.20, on the same input and with the same check as the other contenders.
#
#     crates/highwater-bench/rivals/flink.sh [EVENTS] [USERS] [ROUNDS] [WORKERS]
#
# Takes Flink's jars from the pinned apache-flink-libraries of PyPI and a JDK from the system's packages (as root) or from
# JAVA_HOME, generates the input (a file for each worker), runs Flink and highwater in turn, each without recovery and with a
# checkpoint or an epoch a second, compares the digest of every output with that foretold, and prints CPU, wall time and
# peak memory of each run. At 10 million events (the default) the start of the JVM is a hundredth of it.
set -euo pipefail
events=${1:-10000000} users=${2:-600000} rounds=${3:-3} workers=${4:-1}
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=head.sh
. "$here/head.sh"
if [ -n "${JAVA_HOME:-}" ]; then
    PATH=$JAVA_HOME/bin:$PATH
elif ! command -v javac >/dev/null; then
    apt-get install -y -qq openjdk-17-jdk-headless >/dev/null
fi
# The jars lie in the source package.
python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$place" apache-flink-libraries==1.20.1
mkdir "$place/flink" "$place/classes"
tar -xzf "$place"/apache*flink*libraries*.tar.gz -C "$place/flink"
jars=$(find "$place/flink" -name '*.jar' -path '*/lib/*' -printf '%h\n' | sort -u | sed 's,$,/*,' | paste -sd:)
javac -cp "$jars" -d "$place/classes" "$here/flink/CartJob.java"

mkdir "$place/state"
# Flink leaves its lines in files; what it kept, or we, is of no more use.
gather() {
    if [ -d "$place/parts" ]; then find "$place/parts" -type f -print0 | sort -zV | xargs -0 cat >"$place/out"; fi
    rm -rf "$place/parts" "$place/state"
    mkdir "$place/state"
}
flink() {
    # Modules that Flink's own scripts open for it.
    echo java -Xmx4g --add-opens=java.base/java.util=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED \
        --add-opens=java.base/java.time=ALL-UNNAMED -cp "$place/classes:$jars" CartJob "$workers" "$1" "$place/state" "$place/parts"
}
ours=("$bench" cart -w "$workers" --output "$place/out")
for ((round = 1; round <= rounds; round++)); do
    # shellcheck disable=SC2046 # the words of the command are meant, and none has a space
    cost "flink, no checkpoints" $(flink 0) "$place"/in/*
    cost "highwater, off" "${ours[@]}" "$place"/in/*
    # shellcheck disable=SC2046
    cost "flink, checkpoints at 1 s" $(flink 1000) "$place"/in/*
    cost "highwater, on (log) at 1 s" "${ours[@]}" --store log -s 1s -r "$place/state/store" "$place"/in/*
done
