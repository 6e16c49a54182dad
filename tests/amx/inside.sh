#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# PID 1 of the machine that amx.sh boots: busybox's shell, everything in memory. Results (TAP) go to the second serial port, an
# archive with the images of one checkpoint to the third.
export PATH=/bin LANG=C
number=0

bring_up() {
  /bin/busybox --install -s /bin
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t devtmpfs dev /dev
  mkdir -p /dev/pts /dev/shm
  mount -t devpts devpts /dev/pts
  mount -t tmpfs shm /dev/shm
  mount -t tmpfs tmp /tmp
  mount -t tmpfs run /run
  ip link set lo up
  stty -F /dev/ttyS1 raw 115200
  stty -F /dev/ttyS2 raw 115200
}

# tell STATUS NAME [REASON]
tell() {
  number=$((number + 1))
  if [ "$1" -eq 0 ]; then echo "ok $number - $2"; else echo "not ok $number - $2"; fi >&3
  [ -z "$3" ] || echo "# $3" >&3
}

# until_there FILE…: one of them; half a minute.
until_there() {
  tries=0
  while [ "$tries" -lt 600 ]; do
    for file; do
      [ ! -e "$file" ] || return 0
    done
    tries=$((tries + 1))
    usleep 50000
  done
  return 1
}

# begin PROGRAM [ARGUMENT…]: in $base its files, in $pid its id; fails if it does not come to its work.
begin() {
  base=/tmp/$((number + 1))
  program=$1
  shift
  setsid "$program" "$base" "$@" </dev/null >"$base.output" 2>&1 3>&- &
  pid=$!
  until_there "$base.ready" "$base.result" && [ ! -e "$base.result" ]
}

# end NAME: what the program itself finds.
end() {
  : >"$base.check"
  until_there "$base.result" || echo "no result" >"$base.result"
  [ "$(cat "$base.result")" = PASS ]
  tell $? "$1" "$(cat "$base.result"), up $(cut -d' ' -f1 /proc/uptime) s"
}

# round DIRECTORY OPTION…: dumped, gone and back; with --leave-running it never goes.
round() {
  images=$1
  shift
  mkdir "$images"
  criu dump --no-default-config -D "$images" -o dump.log -v4 -t "$pid" "$@" 2>"$images/errors" 3>&- || return 1
  [ $# -eq 0 ] || return 0
  wait "$pid"
  criu restore --no-default-config -D "$images" -o restore.log -v4 -d 2>"$images/errors" 3>&-
}

# check NAME ROUNDS OPTION PROGRAM [ARGUMENT…]: OPTION may be empty.
check() {
  name=$1 rounds=$2 option=$3
  shift 3
  if ! begin "$@"; then
    tell 1 "$name" "$(cat "$base.result")"
    return
  fi
  while [ "$rounds" -gt 0 ]; do
    usleep 100000
    if ! round "$base.images.$rounds" ${option:+"$option"}; then
      tell 1 "$name" "$(cat "$images/errors")"
      tail -n 5 "$images"/*.log
      return
    fi
    rounds=$((rounds - 1))
  done
  usleep 100000
  end "$name"
}

# An engine that dies at any moment: agents go home, with frames that hold tiles where there are any.
check_kills() {
  if ! begin subject-registers; then
    tell 1 "the engine is killed" "$(cat "$base.result")"
    return
  fi
  killed=0
  for usec in 3000 5000 7000 9000 11000 13000 15000 17000 20000; do
    mkdir "$base.$usec"
    criu dump --no-default-config -D "$base.$usec" -o dump.log -v4 -t "$pid" --leave-running 2>/dev/null 3>&- &
    engine=$!
    usleep "$usec"
    kill -9 "$engine" 2>/dev/null
    wait "$engine"
    [ $? -ne 137 ] || killed=$((killed + 1))
    usleep 200000
  done
  [ "$killed" -gt 0 ] || echo "it was always faster" >"$base.result"
  end "the engine is killed $killed times in the middle of a dump"
}

bring_up
exec 3>/dev/ttyS1
echo 1 >/proc/sys/kernel/printk
echo "1..9" >&3
grep -q ' amx_tile' /proc/cpuinfo && grep -q ' ospke' /proc/cpuinfo
tell $? "the processor has tiles and protection keys, and Linux $(uname -r) uses them"
check "a program with tiles, left alone" 0 "" subject-registers amx
check "a program with tiles, twice" 2 "" subject-registers amx
rm -f "$base.images.1"/*.log "$base.images.1/errors"
tar -C "$base.images.1" -cz . >/dev/ttyS2
check "every kind of register at once, twice" 2 "" subject-registers
check "every kind of register, left running" 2 --leave-running subject-registers
check "protection keys, left alone" 0 "" subject-mapflags pkeys
check "protection keys" 1 "" subject-mapflags pkeys
check_kills
! dmesg | grep -i 'bad fpu state\|BUG:\|WARNING:\|Oops'
tell $? "the kernel has nothing to complain of"
sync
sleep 1
poweroff -f
