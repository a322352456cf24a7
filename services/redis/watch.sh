#!/bin/sh
# The container's health check: does the server answer? It also ends a script that blocks the server, as
# services/redis/watchdog.py does in local mode. No Redis user may run a script, so this is a second line of defence. A
# script that has written cannot be ended alone. Then the health check kills the server, the engine starts it again, and
# the server reads its append-only file, which contains nothing of the script. An answer also ends the count of starts
# that start.sh keeps.
ask() { timeout 4 redis-cli --no-auth-warning --user health --pass any "$@" 2>&1; }

said=$(ask ping)
case $said in
PONG)
    rm -f starts
    exit 0
    ;;
*BUSY*)
    ended=$(ask script kill)
    case $ended in *BUSY*) ended=$(ask function kill) ;; esac
    echo "a script did not end: $ended"
    case $ended in
    *UNKILLABLE*)
        for process in /proc/[0-9]*; do
            [ "$(cat "$process/comm" 2>/dev/null)" = redis-server ] && kill -KILL "${process#/proc/}"
        done
        ;;
    esac
    ;;
esac
echo "the server says: $said"
exit 1
