#!/usr/bin/env bash
# Runs jaxbusi on every worker of a Cloud TPU slice (the Cloud TPU API; for GKE see docs/clusters.md).
#
#   export TPU_NAME=my-slice ZONE=us-east5-b           # and PROJECT_ID, where gcloud's is another
#   export SHARE=10.0.0.2:/share                       # an NFS export, mounted at /mnt/shared
#   scripts/tpu_pod.sh setup
#   scripts/tpu_pod.sh run python -m jaxbusi.main --config configs/fusion.py \
#       --workdir /mnt/shared/runs/fusion --config.data.root=/mnt/shared/Dataset_BUSI_with_GT
#   scripts/tpu_pod.sh stop                            # from another terminal: save and exit
#
# `setup` sends the committed files of this clone, makes an environment and mounts the share.
# `--dry-run` before the word prints the commands instead. JAX finds the other workers by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

call() {
  if [[ $dry_run == yes ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Runs a script on workers: 'all', or the number of one.
remote() {
  call gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="$1" --command="$2"
}

dry_run=no
if [[ ${1:-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
[[ -n ${TPU_NAME:-} && -n ${ZONE:-} ]] || refuse "set TPU_NAME and ZONE to the slice's"
where=(--zone="$ZONE")
if [[ -n ${PROJECT_ID:-} ]]; then
  where+=(--project="$PROJECT_ID")
fi

case ${1:-} in
  setup)
    [[ -n ${SHARE:-} ]] || refuse "set SHARE to an NFS export, as in 10.0.0.2:/share"
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    call git archive --output="$folder/jaxbusi.tar.gz" HEAD
    call gcloud compute tpus tpu-vm scp "$folder/jaxbusi.tar.gz" "$TPU_NAME:" "${where[@]}" \
      --worker=all
    # uv, because the workers' own Python is older than 3.11.
    remote all "set -e
mkdir -p jaxbusi
tar -xzf jaxbusi.tar.gz -C jaxbusi
cd jaxbusi
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv -c constraints.txt -e '.[tpu]'
sudo apt-get install --quiet --yes nfs-common
sudo mkdir -p /mnt/shared
mountpoint -q /mnt/shared || sudo mount -t nfs $(printf '%q' "$SHARE") /mnt/shared"
    ;;
  run)
    shift
    (($#)) || refuse "run what? For instance: run python -m jaxbusi.main --config …"
    for word in "$@"; do
      if [[ $word == gs://* || $word == *=gs://* ]]; then
        refuse "$word: a bucket is no folder; name one under /mnt/shared"
      fi
    done
    remote all "cd jaxbusi
source .venv/bin/activate
echo \$\$ > ~/jaxbusi.pid
exec $(printf '%q ' "$@")"
    ;;
  stop)
    # One is enough: it tells the others.
    # shellcheck disable=SC2016 # the worker's shell reads its own file
    remote 0 'kill -TERM "$(cat ~/jaxbusi.pid)"'
    ;;
  *)
    refuse "give setup, run or stop, not '${1:-}'"
    ;;
esac
