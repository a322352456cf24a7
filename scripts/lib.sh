# shellcheck shell=bash
# Where things are; every script here begins with it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$(realpath -m "${OVERNIGHT_VENV:-$root/.venv}")
export OVERNIGHT_VENV=$venv

# Runs one of the operator's commands. -P: what lies in the caller's folder is not taken for ours.
operate() {
    "$root/scripts/setup" operate
    exec "$venv/bin/python" -P -m services "$@"
}
