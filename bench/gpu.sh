#!/bin/sh
# Measure engines of target ort-cuda on this machine's GPU: bench/gpu.sh ENGINE... [options of bench.suites.gpu]
#   WHEELS=DIR  first install the wheels of DIR into build/gpu-site, offline
# The package edgekiln must be installed or on PYTHONPATH.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --upgrade --target build/gpu-site "$WHEELS"/*.whl
    PYTHONPATH=$(pwd)/build/gpu-site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
exec python3 -m bench.suites.gpu "$@"
