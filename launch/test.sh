#!/usr/bin/env bash
# Runs the quick tests, enough to trust an installation; --all adds the thorough ones (minutes more), and
# `-m slow` runs those that take many minutes each.
# Usage: bash launch/test.sh [--all] [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment requirements.txt tests/requirements.txt
keep_memory
[ "${1:-}" = --all ] && { shift; set -- -m "not slow" "$@"; }
# Two processes, because tests mostly compile, each on one core; a module stays in one of them, with its fixtures. One that
# dies ends the run, which would otherwise wait for it.
.venv/bin/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 "$@"
