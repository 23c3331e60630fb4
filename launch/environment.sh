# Sourced by the other scripts: changes to the project's folder and offers make_environment.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# make_environment FILE ...: a virtual environment in .venv with these requirements, installed once and when they change.
make_environment() {
  local python=${PYTHON:-python3} stamp
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: arada needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
    return 1
  fi
  stamp=.venv/.installed-$(cat "$@" | cksum | cut -d' ' -f1)
  if [ ! -e "$stamp" ]; then
    echo "Installing $* into .venv (minutes, once)"
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    .venv/bin/python -m pip install --quiet "${files[@]}"
    touch "$stamp"
  fi
}
