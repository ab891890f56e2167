#!/usr/bin/env bash
# Fetch Debian's promtool (package prometheus), without installing or starting anything.
#
# It lands in ${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/promtool/promtool; a whole one is left alone.
set -euo pipefail

folder=${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/promtool
[ -x "$folder/promtool" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
if ! apt-get download prometheus >/dev/null 2>&1; then
  echo "promtool: Debian's package prometheus cannot be had here; its tests are skipped" >&2
  exit 0
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool
mkdir -p "$folder"
mv usr/bin/promtool "$folder/promtool.$$"
mv "$folder/promtool.$$" "$folder/promtool"
