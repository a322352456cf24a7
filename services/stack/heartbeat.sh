#!/bin/sh
# The health check of trainer, dry-run worker and researcher: the heartbeat file is younger than two minutes, and its
# process does not refuse to run. It starts no Python, because every start would take seconds from a trial, and on a
# machine under full load it would not end in time. The output is the status in the file.
file=${1:-/run/overnight/heartbeat}
if [ ! -e "$file" ]; then
    echo "no heartbeat yet"
    exit 1
fi
cat "$file"
case $(cat "$file") in refused*) exit 1 ;; esac
if [ -z "$(find "$file" -mmin -2)" ]; then
    echo " (more than two minutes ago; no heartbeat since then)"
    exit 1
fi
