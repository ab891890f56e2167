#!/bin/sh
# Builds Kubernetes' own judge of CRDs, objects and quantities; needs Go and some minutes, once.
set -eu
cd "$(dirname "$0")"
target="${MODELAGENT_TEST_CACHE:-$HOME/.cache/model-agent}/apiextensions"
mkdir -p "$target"
go build -o "$target/judge" .
echo "$target/judge"
