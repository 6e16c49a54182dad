#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Runs as a unit inside the machine that machine.sh boots; standard output is /result. TAP.
#
# shellcheck disable=SC2016,SC2317 # inner shells expand; check() calls the functions
set -uo pipefail

number=0
work=$(mktemp -d /run/inside.XXXXXX)
chmod 755 "$work"
unit=$(sed -n 's/^SystemdService=//p' /usr/share/dbus-1/system-services/org.criu.Checkpoint.service)
manager=(org.criu.Checkpoint /org/criu/Checkpoint org.criu.Checkpoint.Manager)
cd /

# check WHAT COMMAND…: one test; what it printed is shown if it fails.
check() {
  local what=$1
  shift
  ((++number))
  if "$@" >"$work/output" 2>&1; then
    echo "ok $number - $what"
  else
    echo "not ok $number - $what"
    sed 's/^/#   /' "$work/output"
  fi
}

# An application that holds a number in memory and shows it: FILE gets "PID NUMBER" 20 times a second.
cat >/usr/local/bin/counter <<'PYTHON'
#!/usr/bin/python3 -I
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
number = 0
while True:
    number += 1
    os.pwrite(fd, b"%-20d %-20d\n" % (os.getpid(), number), 0)
    time.sleep(0.05)
PYTHON
chmod 755 /usr/local/bin/counter

# As somebody who sits at the machine: a session on seat0.
as_login() {
  local user=$1
  shift
  systemd-run --quiet --wait --pipe --collect -p "User=$user" -p PAMName=login \
    -p Environment="XDG_SEAT=seat0 XDG_SESSION_TYPE=tty XDG_SESSION_CLASS=user" "$@" </dev/null
}

# As a service does: no session.
as_system() {
  local user=$1
  shift
  systemd-run --quiet --wait --pipe --collect -p "User=$user" "$@" </dev/null
}

pid_in() {
  awk '{ print $1 }' "$1"
}

count_in() {
  awk '{ print $2 }' "$1"
}

# start_counter USER FILE: as a unit of its own, which ends with it.
start_counter() {
  local user=$1 file=$2
  install -o "$user" -m 644 /dev/null "$file"
  systemd-run --quiet --collect -p "User=$user" -p StandardOutput=null -p StandardError=null \
    -p SendSIGKILL=no -p KillMode=none /usr/local/bin/counter "$file"
  for _ in {1..100}; do
    [[ ! -s $file ]] || return 0
    sleep 0.05
  done
  return 1
}

# Killed it is at once; its parent reaps it when it gets to it.
gone() {
  for _ in {1..100}; do
    [[ -d /proc/$1 ]] || return 0
    sleep 0.05
  done
  return 1
}

# counts_on FILE: the number grows.
counts_on() {
  local before
  before=$(count_in "$1")
  for _ in {1..60}; do
    (($(count_in "$1") <= before)) || return 0
    sleep 0.05
  done
  return 1
}

# refused STATUS ERROR COMMAND…: the command checkpoint ends with STATUS and names ERROR.
refused() {
  local status=0 wanted=$1 name=$2
  shift 2
  "$@" >"$work/refusal" 2>&1 || status=$?
  cat "$work/refusal"
  [[ $status == "$wanted" ]] && grep -q "$name" "$work/refusal"
}

# What a service prints: "PID NUMBER" five times a second, into the journal.
cat >/usr/local/bin/talker <<'PYTHON'
#!/usr/bin/python3 -I
import os, time
number = 0
while True:
    number += 1
    print(os.getpid(), number, flush=True)
    time.sleep(0.2)
PYTHON
chmod 755 /usr/local/bin/talker

# said: its last words.
said() {
  journalctl --sync
  journalctl --no-pager --quiet -t chatter -o cat | tail -n 1
}

# talks_on NUMBER: it says a greater one, under the name that it had.
talks_on() {
  local last
  for _ in {1..300}; do
    last=$(said)
    last=${last##* }
    [[ -z $last ]] || ((last <= $1)) || return 0 # it may not have begun yet
    sleep 0.1
  done
  return 1
}

# The shipped rules, the shipped plugin, and journald itself.
keeps_its_journal() {
  local last
  checkpoint plugins | grep -E '^syslog .*on-demand' || return 1
  systemd-run --quiet --collect -p User=alice -p SyslogIdentifier=chatter -p SendSIGKILL=no -p KillMode=none \
    /usr/local/bin/talker
  talks_on 0 || return 1
  last=$(said)
  checkpoint dump "${last%% *}" talker || return 1
  gone "${last%% *}" || return 1
  last=$(said)
  checkpoint restore talker && talks_on "${last##* }" && [[ $(said) == "${last%% *} "* ]]
}

# cycle AS FILE NAME: dump, gone, restore, same pid, goes on from where it was.
cycle() {
  local file=$2 name=$3 pid count
  local -a as
  read -ra as <<<"$1"
  pid=$(pid_in "$file")
  "${as[@]}" checkpoint dump --no-progress "$pid" "$name" || return 1
  gone "$pid" || { echo "process $pid is still there"; return 1; }
  count=$(count_in "$file")
  sleep 0.3
  [[ $(count_in "$file") == "$count" ]] || { echo "it still counts"; return 1; }
  "${as[@]}" checkpoint restore --no-progress "$name" || return 1
  [[ -d /proc/$pid ]] || { echo "process $pid did not come back"; return 1; }
  counts_on "$file" || { echo "it does not count on"; return 1; }
  [[ $(pid_in "$file") == "$pid" ]] && (($(count_in "$file") < count + 200))
}

activation() {
  ! systemctl --quiet is-active "$unit" || { echo "it runs already"; return 1; }
  busctl get-property "${manager[@]}" Version || return 1
  systemctl --quiet is-active "$unit"
}

# What the process on the bus has, from its unit and from itself.
locked_down() {
  local pid set
  pid=$(systemctl show -P MainPID "$unit")
  grep -E '^(Cap|NoNewPrivs|Seccomp:)' "/proc/$pid/status"
  for set in CapInh CapPrm CapEff CapBnd CapAmb; do
    grep -q "^$set:[[:space:]]*0*\$" "/proc/$pid/status" || { echo "it has capabilities: $set"; return 1; }
  done
  grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$pid/status" && grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status"
}

# What systemd thinks of the unit; 10 is worst.
exposure() {
  local score
  systemd-analyze security --no-pager "$unit" >"$work/exposure"
  score=$(sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p' "$work/exposure")
  grep -v '^.\[*[0-9;m]*✓' "$work/exposure"
  [[ -n $score ]] && awk -v score="$score" 'BEGIN { exit !(score <= 2.0) }'
}

# asks_for_engine COMMAND…: asks for an engine; what comes back, to the end.
asks_for_engine() {
  "$@" perl -MSocket -e '
    socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!";
    connect($s, sockaddr_un("/run/checkpointd-spawner")) or do { print "connect: $!\n"; exit };
    send($s, "e", 0);
    my $got = recv($s, my $bytes, 100, 0);
    print defined $got && length $bytes ? "an answer\n" : "nothing\n"'
}

# Engines are for the bus process alone: not for root, with or without capabilities, nor for a user.
engines_for_nobody() {
  local answer
  for answer in "$(asks_for_engine env)" "$(asks_for_engine systemd-run --quiet --wait --pipe --collect -p CapabilityBoundingSet=)" \
    "$(asks_for_engine systemd-run --quiet --wait --pipe --collect -p User=alice)"; do
    echo "$answer"
    [[ $answer == nothing || $answer == "connect: Permission denied" ]] || return 1
  done
}

# What the service's unit has must not be found in what it restores.
not_hardened() {
  local pid kind
  pid=$(pid_in "$1")
  for kind in mnt net ipc uts cgroup user pid; do
    [[ $(readlink "/proc/$pid/ns/$kind") == "$(readlink "/proc/1/ns/$kind")" ]] || { echo "another $kind namespace"; return 1; }
  done
  grep -E '^(NoNewPrivs|Seccomp|CapBnd)' "/proc/$pid/status"
  grep -q '^NoNewPrivs:[[:space:]]*0' "/proc/$pid/status" && grep -q '^Seccomp:[[:space:]]*0' "/proc/$pid/status" &&
    [[ $(grep CapBnd "/proc/$pid/status") == "$(grep CapBnd /proc/1/status)" ]]
}

# By busctl alone: what a script without our command does.
busctl_redis() {
  local pid
  redis-cli -s "$work/redis.sock" set greeting hello >/dev/null
  pid=$(cat "$work/redis.pid")
  busctl --timeout=60 call "${manager[@]}" Dump 'usa{sv}' "$pid" redis 0 || return 1
  gone "$pid" || { echo "redis is still there"; return 1; }
  busctl --timeout=60 call "${manager[@]}" Restore 'sa{sv}' redis 0 || return 1
  [[ -d /proc/$pid && $(redis-cli -s "$work/redis.sock" get greeting) == hello ]]
}

start_redis() {
  systemd-run --quiet --collect --unit=redis-app -p KillMode=none -p Type=simple -p User=redis \
    -p StandardOutput=null -p StandardError=null \
    redis-server --port 0 --unixsocket "$work/redis.sock" --save '' --dir / --daemonize no
  for _ in {1..100}; do
    ! redis-cli -s "$work/redis.sock" ping >/dev/null 2>&1 || break
    sleep 0.05
  done
  systemctl show -P MainPID redis-app >"$work/redis.pid"
}

not_in_service_cgroup() {
  cat "/proc/$(pid_in "$1")/cgroup"
  ! grep -q checkpointd "/proc/$(pid_in "$1")/cgroup"
}

store_is_private() {
  [[ $(stat -c %a:%U /var/lib/checkpointd) == 700:root ]] || { stat /var/lib/checkpointd; return 1; }
  ! as_login bob ls /var/lib/checkpointd
}

setuid_tree() {
  install -m 4755 /usr/bin/sleep /usr/local/bin/setuid-sleep
  systemd-run --quiet --collect --unit=setuid-app -p User=alice \
    sh -c 'sleep 1000 & setuid-sleep 1000 & echo $$ >/home/alice/tree.pid; wait'
  sleep 0.5
  refused 4 Error. as_login alice checkpoint dump --json "$(systemctl show -P MainPID setuid-app)" tree || return 1
  systemctl --quiet is-active setuid-app
}

grant_worker() {
  cat >/etc/polkit-1/rules.d/50-checkpoint-test.rules <<'RULES'
polkit.addRule(function (action, subject) {
  if ((action.id == "org.criu.Checkpoint.dump-own" || action.id == "org.criu.Checkpoint.restore-own") &&
      subject.user == "worker")
    return polkit.Result.YES;
});
RULES
  sleep 1
}

grant_directories() {
  cat >/etc/polkit-1/rules.d/51-checkpoint-test.rules <<'RULES'
polkit.addRule(function (action, subject) {
  if (action.id == "org.criu.Checkpoint.restore-untrusted" && subject.user == "alice")
    return polkit.Result.YES;
});
RULES
  sleep 1
}

# Out into a directory of the user's is the user's own matter, back from it an administrator's.
own_directory() {
  local file=/srv/counters/alice images=/home/alice/images pid
  pid=$(pid_in "$file")
  as_login alice checkpoint dump --no-progress -D "$images" "$pid" || return 1
  gone "$pid" || return 1
  [[ -f $images/inventory.img ]] || return 1
  ! find "$images" ! -user alice | grep . || { echo "not hers"; return 1; }
  refused 4 Error. as_login alice checkpoint restore --json -D "$images" || return 1
  grant_directories
  # It comes into the control group of who asks: a session here.
  as_login alice sh -c "checkpoint restore --no-progress -D $images && cat /proc/$pid/cgroup /proc/self/cgroup &&
    grep -E '^(Uid|Groups|CapPrm)' /proc/$pid/status && cmp /proc/$pid/cgroup /proc/self/cgroup" || return 1
  counts_on "$file" || { echo "it does not count on"; return 1; }
  grep -q "^Groups:[[:space:]]*1000[[:space:]]*\$" "/proc/$pid/status"
}

# A program with libcheckpoint.
goes_back() {
  as_login alice sh -c 'setsid --fork go-back risk /home/alice/risk </dev/null >/dev/null 2>&1
    for _ in $(seq 150); do ! grep -q back /home/alice/risk 2>/dev/null || break; sleep 0.1; done; cat /home/alice/risk'
  [[ $(cat /home/alice/risk) == $'trying\nback, and all numbers are right' ]]
}

# The service leaves by itself while what it restored lives on, and comes back when called.
idle_exit() {
  for _ in {1..120}; do # finished jobs stay a minute, then it waits half a minute
    if ! systemctl --quiet is-active "$unit"; then
      [[ $(systemctl show -P Result "$unit") == success ]] || { systemctl status --no-pager "$unit"; return 1; }
      sleep 1
      ! systemctl list-units --no-legend --all 'checkpointd-spawner@*' | grep . || { echo "the spawner stayed"; return 1; }
      return 0
    fi
    sleep 1
  done
  systemctl status --no-pager "$unit"
  return 1
}

all_live() {
  local file
  for file in "$@"; do
    counts_on "$file" || { echo "$file does not count on"; return 1; }
  done
  [[ $(redis-cli -s "$work/redis.sock" get greeting) == hello ]]
}

check "the machine runs systemd" grep -qx systemd /proc/1/comm
check "the service is installed for activation by systemd" test -n "$unit"
check "the first call activates it" activation
check "its process on the bus is locked down" locked_down
check "its unit's exposure is 2.0 or less" exposure
check "engines are started for it only" engines_for_nobody
check "this system can dump and restore" checkpoint check

mkdir -p /srv/counters
start_counter root /srv/counters/root
start_counter alice /srv/counters/alice
start_counter bob /srv/counters/bob
start_counter worker /srv/counters/worker
install -d -o redis "$work"
start_redis

check "root: explain finds nothing in the way of redis" checkpoint explain "$(cat "$work/redis.pid")"
check "root: redis, by busctl alone" busctl_redis
check "root: a process of one's own" cycle "" /srv/counters/root root-1
check "root: another user's process" cycle "" /srv/counters/bob bob-by-root
check "root: a service of systemd's, with its journal" keeps_its_journal
check "root: what is restored is not in the service's cgroup" not_in_service_cgroup /srv/counters/root
check "root: what is restored has nothing of the service's restrictions" not_hardened /srv/counters/root
check "root: an unknown process" refused 5 NoSuchProcess checkpoint dump --json 4000000 nobody
check "root: PID 1" refused 4 NotPermittedTarget checkpoint dump --json 1 one
check "root: a name that exists" refused 6 CheckpointExists checkpoint dump --json "$(pid_in /srv/counters/root)" root-1
check "root: a name that leaves the store" refused 2 InvalidArgs checkpoint dump --json "$(pid_in /srv/counters/root)" ../x
check "root: an unknown checkpoint" refused 5 NoSuchCheckpoint checkpoint restore --json nothing
check "root: restoring what still runs" refused 6 PidInUse checkpoint restore --json root-1

check "a logged-in user: an own process" cycle "as_login alice" /srv/counters/alice mine
check "a logged-in user: not root's process" \
  refused 4 Error. as_login alice checkpoint dump --json "$(pid_in /srv/counters/root)" stolen
check "a logged-in user: not another user's process" \
  refused 4 Error. as_login alice checkpoint dump --json "$(pid_in /srv/counters/bob)" stolen
check "a logged-in user: not an own tree with a setuid child" setuid_tree
check "a logged-in user: not another user's checkpoint" \
  refused 4 Error. as_login alice checkpoint restore --json --owner=root root-1
check "a logged-in user: sees own checkpoints only" \
  bash -c '[[ $(systemd-run --quiet --wait --pipe --collect -p User=alice checkpoint list --json | grep -o "\"name\":\"[^\"]*\"") == "\"name\":\"mine\"" ]]'
check "a logged-in user: an own directory" own_directory
check "a logged-in user: a program that checkpoints itself" goes_back
check "the store is root's alone" store_is_private

check "a system user: nothing without a grant" \
  refused 4 Error. as_system worker checkpoint dump --json "$(pid_in /srv/counters/worker)" w
grant_worker
check "a system user: an own process, granted by a rule" cycle "as_system worker" /srv/counters/worker w
check "a system user: still not root's process" \
  refused 4 Error. as_system worker checkpoint dump --json "$(pid_in /srv/counters/root)" w2

check "the service leaves when idle" idle_exit
check "what was restored lives on" all_live /srv/counters/root /srv/counters/alice /srv/counters/bob /srv/counters/worker
check "the next call brings it back, with its store" bash -c 'checkpoint list --json | grep -q root-1'
echo "1..$number"
journalctl --no-pager --quiet -p warning -u "$unit" | sed 's/^/# journal: /'
