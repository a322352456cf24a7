#!/bin/sh
# Starts Redis in its container, in the folder of its files. Four starts without an answer between them mean that it
# cannot read the files of its queue. They are put aside, because the researcher queues its trial again from the
# journal; in local mode services/redis/server.py does the same. watch.sh forgets the starts as soon as Redis answers.
echo start >>starts
if [ "$(grep -c . starts)" -gt 3 ] && [ -d appendonlydir ]; then
    rm -rf appendonlydir.damaged
    mv appendonlydir appendonlydir.damaged
    echo "the queue's files were damaged and are kept as appendonlydir.damaged; requests without an answer are lost"
fi
exec redis-server "$@"
