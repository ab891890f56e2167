#!/usr/bin/env bash
# Install the real model servers that tests talk to, each in a virtual environment of its own.
#
#   tests/servers/install.sh [mlserver|kserve|triton]...     all three when none is named
#
# They land in ${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/<name>-<version>. The stamp file
# `installed` is written last: an interrupted installation is made anew, a whole one is left alone.
set -euo pipefail

cache=${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}
python=${PYTHON:-python3}

version() {
  case $1 in
    mlserver) echo 1.7.1 ;;
    kserve) echo 0.21.0 ;;
    triton) echo 0.7.0 ;;
    *) echo "unknown server: $1 (one of mlserver, kserve, triton)" >&2; return 64 ;;
  esac
}

# uvloop 0.23 breaks the parallel workers of MLServer 1.7.1: every load then answers 500.
requirements() {
  case $1 in
    mlserver) printf '%s\n' mlserver==1.7.1 mlserver-sklearn==1.7.1 'uvloop<0.22' ;;
    kserve) printf '%s\n' kserve==0.21.0 kserve-storage==0.21.0 scikit-learn joblib ;;
    triton) printf '%s\n' nvidia-pytriton==0.7.0 ;;
  esac
}

# pytriton carries the whole Triton server; only its backends folder is copied, to add the Python stub
# of the interpreter in use. The binary itself runs from site-packages, where its library path points.
finish_triton() {
  local venv=$1 site tag
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  tag=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  mkdir -p "$venv/triton"
  cp -r "$site/pytriton/tritonserver/backends" "$site/pytriton/tritonserver/caches" "$venv/triton/"
  cp "$site/pytriton/tritonserver/python_backend_stubs/$tag/triton_python_backend_stub" \
    "$venv/triton/backends/python/"
  chmod +x "$site/pytriton/tritonserver/bin/tritonserver" "$venv/triton/backends/python/triton_python_backend_stub"
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
  "$python" -m venv "$venv"
  requirements "$name" | "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement /dev/stdin
  if [[ $name == triton ]]; then finish_triton "$venv"; fi
  "$venv/bin/pip" freeze --disable-pip-version-check >"$venv/frozen.txt"
  echo "$((SECONDS - started))" >"$venv/installed"
  echo "$name: installed into $venv in $((SECONDS - started)) s"
}

if [[ $# -eq 0 ]]; then set -- mlserver kserve triton; fi
for name in "$@"; do version "$name" >/dev/null; done
for name in "$@"; do install "$name"; done
