#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# pipeline.sh FILE: numbers through five processes; a line that is lost, doubled or out of order shows.
count() {
  local i=0
  while :; do
    i=$((i + 1))
    echo "$i bad=0"
    sleep 0.02
  done
}
count | stdbuf -oL cat | sed -u 's/bad=0/bad=zero/' | awk '{ print; fflush() }' | sed -u 's/zero/0/' >"$1"
