#!/usr/bin/env bash
# Install the system's programs that tests start, where they are missing; Debian's names. Nothing to do is quick.
set -euo pipefail
missing=()
for pair in strace:strace nginx:nginx-light unshare:util-linux chromium:chromium; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
