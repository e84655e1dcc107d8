#!/bin/sh
# Measure engines of target ort-cuda on this machine's GPU: bench/gpu.sh ENGINE... [options of bench/gpu.py]
#   WHEELS=DIR  first install the wheels of DIR, with nothing fetched, into build/gpu-site
# The package edgekiln must be importable, or be named by PYTHONPATH.
set -eu
here=$(dirname "$0")
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install --quiet --no-index --no-deps --upgrade --target build/gpu-site "$WHEELS"/*.whl
    PYTHONPATH=$(pwd)/build/gpu-site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
exec python3 "$here/gpu.py" "$@"
