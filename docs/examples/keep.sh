#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# keep.sh PID NAME SECONDS ROUNDS: a new checkpoint of an application every so often, while it runs on; and if it has died
# meanwhile, it comes back as it was at the last one. With nothing but busctl(1).
set -eu
pid=${1:?pid} name=${2:?name} seconds=${3:-60} rounds=${4:-60}

manager() {
  busctl --system --timeout=600 --quiet call org.criu.Checkpoint /org/criu/Checkpoint org.criu.Checkpoint.Manager "$@"
}

while [ "$rounds" -gt 0 ]; do
  if kill -0 "$pid" 2>/dev/null || [ -d "/proc/$pid" ]; then
    manager Dump 'usa{sv}' "$pid" "$name" 2 leave-running b true replace b true
    echo "checkpoint"
  else
    manager Restore 'sa{sv}' "$name" 0
    echo "brought back"
  fi
  rounds=$((rounds - 1))
  sleep "$seconds"
done
