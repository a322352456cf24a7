# shellcheck shell=bash
# Sets the paths that every script here needs.
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$(realpath -m "${OVERNIGHT_VENV:-$root/.venv}")
export OVERNIGHT_VENV=$venv

# Runs one of the operator's commands. With -I, Python reads none of its variables and nothing from the caller's folder.
operate() {
    "$root/scripts/setup" operate
    exec "$venv/bin/python" -I -m services "$@"
}
