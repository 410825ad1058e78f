#!/bin/bash
# A work list on a Slurm cluster, in as many parts as the array has tasks:
#   sbatch slurm.sh WORK.jsonl RESULTS [ACTION]
# on storage that all nodes share. Submit it again for what is left: what is done is passed over.
#SBATCH --job-name=vsyspatch
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=08:00:00
#SBATCH --requeue
set -u
status=0
# Status 3 is what may pass: a registry that is busy, a full disk.
for pause in 60 600 0; do
    vsyspatch fleet run "$1" --results "$2" --cache-dir "$2/cache" --action "${3:-patch}"
    status=$?
    [[ $status == 3 ]] || break
    sleep "${PAUSE:-$pause}"
done
exit "$status"
