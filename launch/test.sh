#!/usr/bin/env bash
# Runs the quick tests, which check an installation; --all adds the thorough tests (minutes more), and `-m slow` runs
# the tests that take many minutes each.
# Usage: bash launch/test.sh [--all] [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements.txt tests/requirements.txt
keep_memory
[ "${1:-}" = --all ] && { shift; set -- -m "not slow" "$@"; }
# Two processes, because tests mostly compile, which uses one core. Each module stays in one process, with its fixtures;
# tests/conftest.py orders the modules. If a process dies the test run ends, which would otherwise wait for it.
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 "$@"
