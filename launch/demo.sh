#!/usr/bin/env bash
# AR-AdaLS on real images in minutes: four methods on handwritten digits, three seeds each, one report.
# Usage: bash launch/demo.sh [workdir]
set -euo pipefail
from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# A run that is asked to stop ends without an error, and the next one would start.
trap 'exit 130' INT
trap 'exit 143' TERM
workdir=${1:-$PWD/workdir/digits}
[[ $workdir == /* || $workdir == *://* ]] || workdir=$from/$workdir
make_environment requirements.txt
keep_memory

# What one method compiles, the next one finds.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
for method in vanilla label_smoothing adals ar_adals; do
  printf '\n== %s\n' "$method"
  .venv/bin/python -m arada.main --config="configs/digits.py:$method" --workdir="$workdir"
done
