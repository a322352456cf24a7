#!/bin/sh
# Pulls MODEL into the models volume, unless it is there, with a server that runs only during the pull. A pull that fails
# is tried again for as long as the container runs, and goes on where it was. Then the script only waits for its end, so
# that the engine starts it again after a reboot. The file PULL_FILE holds the state of the pull until the model is there.
# The script runs in Ollama's own image, which has neither Python nor curl. Afterwards, no container of the LLM has
# internet access.
set -eu

: "${MODEL:?is not set; gpu.env names the model}"
export OLLAMA_HOST=127.0.0.1:11434
pull_file=${PULL_FILE:-/models/pull.txt}
scratch=${SCRATCH:-/tmp}
again_s=${PULL_AGAIN_S:-60}

main() {
    trap 'rm -f "$pull_file"; exit 0' TERM INT
    rm -f "$scratch/pulled"
    serve
    until ollama show "$MODEL" >/dev/null 2>&1; do
        in_background pull || true
        if ollama show "$MODEL" >/dev/null 2>&1; then break; fi
        say "$MODEL cannot be pulled ($(cat "$scratch/fault")). Tried again in $again_s s. Next: check MODEL in gpu.env" \
            "and the network; with LLM=none in gpu.env there is no LLM"
        in_background sleep "$again_s"
    done
    kill "$server"
    rm -f "$pull_file"
    touch "$scratch/pulled"
    echo "$MODEL is there"
    in_background sleep infinity
}

# Runs a command so that a signal ends the script at once: a shell handles none while it waits in the foreground.
in_background() {
    "$@" &
    wait $!
}

serve() {
    ollama serve >"$scratch/serve.log" 2>&1 &
    server=$!
    tries=0
    until ollama list >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -ge 120 ] || ! kill -0 $server 2>/dev/null; then
            cat "$scratch/serve.log" >&2
            echo "ollama does not start; see above" >&2
            exit 1 # the engine starts the container again
        fi
        in_background sleep 0.5
    done
}

# Pulls once, and says each new percentage. Ollama draws its bars for a terminal also where none is.
pull() {
    say "pulling $MODEL"
    echo "it said nothing" >"$scratch/fault"
    ollama pull "$MODEL" 2>&1 | tr '\r' '\n' | {
        shown=-1
        while IFS= read -r line; do
            case $line in
            *Error*) echo "Error${line#*Error}" >"$scratch/fault" ;;
            *[0-9]%*)
                percent=${line%%\%*}
                percent=${percent##*[!0-9]}
                if [ "$percent" -gt "$shown" ]; then
                    shown=$percent
                    say "pulling $MODEL, $percent %"
                fi
                ;;
            esac
        done
    }
}

# Prints a sentence, and puts it into PULL_FILE in one step. On a full disk it is only printed.
say() {
    echo "$*"
    { echo "$*" >"$pull_file.new" && mv "$pull_file.new" "$pull_file"; } 2>/dev/null || true
}

main
