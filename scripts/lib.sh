# shellcheck shell=bash
# Where things are; every script here begins with it.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$(realpath -m "${OVERNIGHT_VENV:-$root/.venv}")
export OVERNIGHT_VENV=$venv
