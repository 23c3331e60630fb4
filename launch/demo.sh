#!/usr/bin/env bash
# AR-AdaLS on real images in minutes: four methods on handwritten digits, three seeds each, and a report.
# Usage: bash launch/demo.sh [workdir]
set -euo pipefail
from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# A run that is asked to stop ends with exit code 0; without these traps the next run would start.
trap 'exit 130' INT
trap 'exit 143' TERM
workdir=${1:-$PWD/workdir/digits}
[[ $workdir == /* || $workdir == *://* ]] || workdir=$from/$workdir
make_environment requirements.txt
keep_memory

# All methods share compiled programs.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
for method in vanilla label_smoothing adals ar_adals; do
  printf '\n== %s\n' "$method"
  .venv/bin/python -m arada.main --config="configs/digits.py:$method" --workdir="$workdir"
done
