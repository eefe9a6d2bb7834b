#!/usr/bin/env bash
# What the SLURM jobs share: runs a command in every task of the job with srun, and puts the job
# back into the queue where the command was stopped by SIGTERM and has saved (exit status 143).
#
#   scripts/slurm_run.sh python -m jaxbusi.main --config … --workdir …
#
# srun, because SLURM signals what srun started and not the batch script (`--signal` without `B:`).
# `scancel` signals both: this shell dies with it, so that a job that was cancelled stays so.
set -euo pipefail

# A job that is stopped again and again before it gets anywhere goes round at most so often.
most_restarts=100

# gRPC, through which the processes talk, would send what is for the next node to the proxy.
unset grpc_proxy http_proxy https_proxy all_proxy no_grpc_proxy no_proxy
unset GRPC_PROXY HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_GRPC_PROXY NO_PROXY

# Since SLURM 22.05 srun does not take this from the job by itself, and would give a task one core.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi

# The first process to exit with 143 must not end the others while they save. --wait is the last
# resort for a process that hangs after another has ended; the program itself waits a minute.
status=0
srun --kill-on-bad-exit=0 --wait=300 "$@" || status=$?

if ((status == 143)); then
  # By number and index: the last task of an array has the number of the whole array.
  job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  job=${job:-$SLURM_JOB_ID}
  if ((${SLURM_RESTART_COUNT:-0} >= most_restarts)); then
    echo "stopped after $most_restarts restarts: job $job does not go back into the queue" >&2
  else
    echo "stopped after saving: job $job goes back into the queue" >&2
    scontrol requeue "$job"
  fi
fi
exit "$status"
