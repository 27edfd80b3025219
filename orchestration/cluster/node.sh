# The body of every Slurm job of Temper. It runs on the first node, with cpus, container, resources and command set above:
# Ray starts on all nodes, the driver here; when the driver ends, so does the job.
port=6379
head=$(hostname)
deadline_s=300 # for the head to be up

# Whoever can talk to a Ray cluster can run code in it. This one's processes answer those who know the job's token.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

# $1: who waits. One look at a head that is not there takes most of a minute.
wait_for_head() {
  local until=$((SECONDS + deadline_s))
  until "${container[@]}" ray health-check --address "$head:$port" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$until" ] || ! kill -0 "${cluster:-$$}" 2>/dev/null; then
      echo "temper: $1 finds no Ray on $head:$port: the lines above say why it does not start" >&2
      return 1
    fi
    sleep 2
  done
}

# shellcheck disable=SC2329 # called on the nodes, see srun
start_node() {
  if [ "$SLURM_PROCID" -eq 0 ]; then
    exec "${container[@]}" ray start --head --port="$port" "${resources[@]}" \
      --include-dashboard=false --disable-usage-stats --block
  fi
  wait_for_head "node $(hostname)"
  exec "${container[@]}" ray start --address="$head:$port" "${resources[@]}" --disable-usage-stats --block
}

# One task a node; a lost one does not take the others with it.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$cpus" \
  --no-kill --kill-on-bad-exit=0 --wait=0 \
  bash -euc "$(declare -p port head deadline_s container resources); $(declare -f wait_for_head start_node); start_node" &
cluster=$!

if ! wait_for_head "the driver"; then
  kill "$cluster" 2>/dev/null || true
  exit 1
fi

# The driver starts as soon as the head is up: engines join as their nodes do.
"${container[@]}" "${command[@]}" &
driver=$!
trap 'kill -TERM "$driver"' TERM # from Slurm, before the time limit: the run writes a checkpoint and ends
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2>/dev/null; do # the signal has ended the wait, not the driver
  status=0
  wait "$driver" || status=$?
done
kill "$cluster" 2>/dev/null || true
wait "$cluster" || true
exit "$status"
