#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The demo itself; runs below tools/with-bus.
set -euo pipefail

keys=100000
manager=(org.criu.Checkpoint /org/criu/Checkpoint org.criu.Checkpoint.Manager)
work=$(mktemp -d "${TMPDIR:-/tmp}/demo.XXXXXX")
chmod 755 "$work"
redis=
monitor=

# The application and the monitor are ours to end; the restored one keeps its number.
cleanup() {
  [[ -z $monitor ]] || kill "$monitor" 2>/dev/null || true
  [[ -z $redis ]] || kill -KILL "$redis" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

step() {
  printf '\n== %s\n' "$*"
}

show() {
  printf '$ %s\n' "$*"
  "$@"
}

fail() {
  echo "demo: failed: $*" >&2
  [[ ! -s $WITH_BUS_DIR/service.log ]] || sed 's/^/  service: /' "$WITH_BUS_DIR/service.log" >&2
  exit 1
}

ask_redis() {
  redis-cli -s "$work/redis.sock" "$@"
}

# wait_for COMMAND…: until it succeeds, for five seconds.
wait_for() {
  for _ in {1..100}; do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.05
  done
  return 1
}

is_gone() {
  [[ ! -d /proc/$redis ]]
}

# detached COMMAND…: in a session of its own, with no file open but what it opens itself: whatever
# this shell inherited would be a file that the application shares with somebody outside.
detached() {
  local fd
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    ((fd <= 2)) || eval "exec $fd>&-"
  done
  exec setsid "$@"
}

start_redis() {
  detached redis-server --port 0 --unixsocket "$work/redis.sock" --save '' --dir "$work" --daemonize no \
    --enable-debug-command yes </dev/null >"$work/redis.log" 2>&1 &
  redis=$!
  disown "$redis" # its end is no news to this shell
  wait_for ask_redis ping || { cat "$work/redis.log" >&2; fail "redis-server does not start"; }
  ask_redis debug populate "$keys" key 2000 >/dev/null
  ask_redis set greeting 'hello from before' >/dev/null
}

# Signals go to subscribers, so the monitor subscribes like one.
start_monitor() {
  "$CHECKPOINTD_BUILD/tools/checkpoint/checkpoint" monitor >"$work/signals" 2>&1 &
  monitor=$!
  wait_for busctl --system status org.criu.Checkpoint || fail "the service was not activated"
}

step "The application: redis-server with $keys keys"
start_redis
digest=$(ask_redis debug digest)
echo "process $redis, $(ask_redis dbsize) keys, digest $digest, greeting: $(ask_redis get greeting)"

step "The service starts when it is called"
grep -q '^org.criu.Checkpoint .*activatable' <<<"$(busctl --system list)" || fail "the service is not activatable"
show busctl --system get-property "${manager[@]}" Version
start_monitor

step "Explain: what would be in the way of a dump"
findings=$(show busctl --system call "${manager[@]}" Explain 'ua{sv}' "$redis" 0)
echo "$findings"
[[ $findings == *'aa{sv} 0'* ]] || fail "something is in the way"

step "Dump"
show busctl --system --timeout=120 call "${manager[@]}" Dump 'usa{sv}' "$redis" demo 0 || fail "the dump failed"
is_gone || wait_for is_gone || fail "process $redis is still there"
! ask_redis ping >/dev/null 2>&1 || fail "redis still answers"
echo "process $redis is gone, nobody answers at its socket"
"$CHECKPOINTD_BUILD/tools/checkpoint/checkpoint" list

step "Restore"
show busctl --system --timeout=120 call "${manager[@]}" Restore 'sa{sv}' demo 0 || fail "the restore failed"
[[ -d /proc/$redis ]] || fail "process $redis did not come back"
wait_for ask_redis ping || fail "redis does not answer"
echo "process $redis, $(ask_redis dbsize) keys, digest $(ask_redis debug digest), greeting: $(ask_redis get greeting)"
[[ $(ask_redis debug digest) == "$digest" ]] || fail "the data is not what it was"
[[ $(ask_redis get greeting) == 'hello from before' ]] || fail "the data is not what it was"
ask_redis set after restore >/dev/null || fail "redis does not take data"

step "The signals that were seen"
kill -INT "$monitor"
wait "$monitor" 2>/dev/null || true
monitor=
cut -c1-150 "$work/signals"
for signal in JobNew PropertiesChanged Finished; do
  grep -q " $signal" "$work/signals" || fail "no signal $signal was seen"
done
grep -q ' Progress=' "$work/signals" || fail "no progress was seen"

echo
echo "demo: ok"
