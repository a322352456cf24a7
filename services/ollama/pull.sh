#!/bin/sh
# Pulls MODEL into the models volume, unless it is there, with a server that runs only during the pull.
# The script runs in Ollama's own image, which has neither Python nor curl. Afterwards, no container of the LLM has
# internet access.
set -eu

: "${MODEL:?is not set; gpu.env names the model}"
export OLLAMA_HOST=127.0.0.1:11434

ollama serve >/tmp/serve.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
tries=0
until ollama list >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ $tries -ge 60 ] || ! kill -0 $server 2>/dev/null; then
        cat /tmp/serve.log >&2
        echo "model: ollama does not start; see above" >&2
        exit 1
    fi
    sleep 0.5
done

if ollama show "$MODEL" >/dev/null 2>&1; then
    echo "model: $MODEL is there"
elif ollama pull "$MODEL"; then
    echo "model: $MODEL pulled"
else
    echo "model: $MODEL cannot be pulled. Next: check MODEL in gpu.env and the network, then the same command again;" \
        "or go on without an LLM: LLM=none in gpu.env" >&2
    exit 1
fi
