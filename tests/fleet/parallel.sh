#!/bin/bash
# A work list on one machine, or on several with --sshlogin, in 16 parts:
#   parallel.sh WORK.jsonl RESULTS [OPTIONS OF GNU PARALLEL]
# Run it again for what is left: what is done is passed over.
seq 16 | parallel -N0 -q --workdir "$PWD" --will-cite --jobs 100% --retries 3 "${@:3}" \
    vsyspatch fleet run "$1" --results "$2" --cache-dir "$2/cache" --shards 16
