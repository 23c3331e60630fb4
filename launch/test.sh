#!/usr/bin/env bash
# Runs the quick tests, which check an installation, or all of them; `-m slow` runs those that take many minutes each.
# Usage: bash launch/test.sh [--all] [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements.txt tests/requirements.txt
keep_memory
if [ "${1:-}" = --all ]; then shift; else set -- -m quick "$@"; fi
# Two processes, because tests mostly compile, which uses one core. Each module stays in one process, with its fixtures;
# tests/conftest.py orders the modules. If a process dies the test run ends, which would otherwise wait for it.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 "$@"
