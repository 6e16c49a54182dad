# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154 # kernel.sh puts source_root, build, suites, pythons and perhaps a command before this
#
# PID 1 of the machine that kernel.sh boots: the tree is a tar file on the second disk, results go to the third one.
set -uo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root TERM=dumb CHECKPOINTD_SLOW=1

bring_up() {
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  mount -t devtmpfs dev /dev
  mkdir -p /dev/pts /dev/shm /dev/mqueue
  mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
  mount -t tmpfs -o mode=1777 shm /dev/shm
  mount -t mqueue mqueue /dev/mqueue
  mount -t tmpfs -o mode=755 run /run
  mount -t cgroup2 cgroup /sys/fs/cgroup
  mount -o remount,rw /
  ln -sfn /proc/self/fd /dev/fd
  mkdir -p /run/dbus
  ip link set lo up
  hostname machine
  ulimit -n 20000
  modprobe -a unix_diag inet_diag tcp_diag udp_diag netlink_diag packet_diag af_packet_diag nf_tables tun veth loop fuse 2>/dev/null
}

link_pythons() {
  local python
  for python in $pythons; do
    [[ -e $python ]] || { mkdir -p "${python%/*}" && ln -s /usr/bin/python3 "$python"; }
  done
}

# The suites one by one, so that each has a log even if a later one hangs the machine.
run_suites() {
  local suite
  cd "$build" || return 1
  for suite in $suites; do
    echo "== $suite: $(date +%T), up $(cut -d' ' -f1 /proc/uptime) s" >/dev/console
    meson test -C "$build" --no-rebuild --suite "$suite" --timeout-multiplier 10 --num-processes 2 --print-errorlogs \
      --logbase "kernel-$suite" 2>&1 | tee "/out/$suite.txt" | grep --line-buffered '^ *[0-9]*/[0-9]* ' >/dev/console
    cp "$build/meson-logs/kernel-$suite".* /out/
    ! grep -q '^Fail: *[1-9]\|^Timeout: *[1-9]' "/out/$suite.txt" || grep -v '^ *[0-9]*/[0-9]* ' "/out/$suite.txt" | tail -n 60 >/dev/console
  done
}

bring_up
tar -xf /dev/vdb -C / 2>/dev/console
link_pythons
mkdir -p /out
cd "$source_root" || exit 1
echo "up: $(uname -r), $(nproc) processors, $(date)" >/dev/console
if [[ -v command ]]; then
  setsid --wait "${command[@]}" </dev/null 2>&1 | tee /out/output >/dev/console
  echo "${PIPESTATUS[0]}" >/out/status
else
  run_suites </dev/null >/dev/console 2>&1
  echo 0 >/out/status
fi
dmesg >/out/dmesg
tar -cf /dev/vdc -C /out .
sync
echo "down: $(cut -d' ' -f1 /proc/uptime) s" >/dev/console
busybox reboot -f
