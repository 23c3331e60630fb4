#!/usr/bin/env bash
# AR-AdaLS on real images in minutes: four methods on handwritten digits, three seeds each, and a report.
# Usage: bash launch/demo.sh [workdir]
set -euo pipefail
from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# The program ends with exit code 0 if it is asked to stop; these traps report the stop.
trap 'exit 130' INT
trap 'exit 143' TERM
workdir=${1:-$PWD/workdir/digits}
[[ $workdir == /* || $workdir == *://* ]] || workdir=$from/$workdir
make_environment requirements.txt
keep_memory

export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
.venv/bin/python -m launch.demo "$workdir"
