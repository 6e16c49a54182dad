#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A whole machine: Debian with systemd as PID 1, our `meson install` in it, booted by
# systemd-nspawn; inside, tests run as root, as a logged-in user and as a system user. TAP.
#
#   machine.sh BUILD-DIRECTORY      (a build configured with --prefix=/usr)
#
# Each run boots a copy of the base image (tools/lib/debian.sh). CHECKPOINTD_MACHINE_KEEP=1 keeps
# the copy. Results come out as a file: a unit of the image runs inside.sh, which writes
# /result, and powers the machine off.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "${1:?usage: machine.sh BUILD-DIRECTORY}" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../tools/lib/debian.sh
source "$here/../../tools/lib/debian.sh"
cache=$debian_cache
packages=(systemd systemd-sysv libpam-systemd dbus polkitd pkexec redis-server redis-tools procps python3-minimal
  libprotobuf-c1 libseccomp2 libnl-3-200 libglib2.0-0)
boot_seconds=360

skip() {
  echo "1..0 # SKIP $*"
  exit 0
}

# What failed before the machine could say anything.
fail() {
  echo "1..1"
  echo "not ok 1 - the machine: $*"
  exit 1
}

prepare_image() {
  local root=$1
  cp -a --reflink=auto "$2/." "$root/"
  DESTDIR=$root meson install -C "$build" --no-rebuild --quiet >"$root/install.log" 2>&1 ||
    { sed 's/^/# /' "$root/install.log" >&2; return 1; }
  install -m 755 "$here/inside.sh" "$root/usr/local/bin/inside.sh"
  install -m 755 "$build/docs/examples/go-back" "$root/usr/local/bin/go-back" # finds the installed library
  install -m 644 "$here/inside.service" "$root/etc/systemd/system/inside.service"
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
  ln -sf ../inside.service "$root/etc/systemd/system/multi-user.target.wants/inside.service"
  ln -sf /dev/null "$root/etc/systemd/system/redis-server.service"
  echo machine >"$root/etc/hostname"
  : >"$root/etc/machine-id"
  chroot "$root" useradd --uid 1000 --create-home --shell /bin/bash alice
  chroot "$root" useradd --uid 1001 --create-home --shell /bin/bash bob
  chroot "$root" useradd --system --no-create-home --shell /usr/sbin/nologin worker
}

# Runs in a mount namespace of its own, in a cgroup of its own. Where the host has the hybrid
# cgroup layout, the namespace sees only the unified tree, as the booted systemd wants it.
boot() {
  local root=$1
  if [[ ! -f /sys/fs/cgroup/cgroup.controllers ]]; then
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
  fi
  mkdir "/sys/fs/cgroup/$cgroup"
  echo $$ >"/sys/fs/cgroup/$cgroup/cgroup.procs"
  # The host's own filter would come before ours, and a traced program may not be under one.
  export SYSTEMD_SECCOMP=0
  exec timeout --kill-after=10 "$boot_seconds" systemd-nspawn --quiet --register=no --keep-unit --boot \
    --private-network --capability=all --console=pipe --machine="$cgroup" --directory="$root" </dev/null
}

# The cgroups that the boot left, from the leaves up, with whatever still runs in them.
remove_cgroups() {
  local tree
  for tree in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    [[ -d $tree/$cgroup ]] || continue
    echo 1 >"$tree/$cgroup/cgroup.kill" || true
    for _ in {1..50}; do
      find "$tree/$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [[ -d $tree/$cgroup ]] || break
      sleep 0.1
    done
  done
}

cleanup() {
  remove_cgroups
  if [[ -n ${CHECKPOINTD_MACHINE_KEEP:-} ]]; then
    echo "# kept $root" >&2
  else
    rm -rf --one-file-system -- "$root"
  fi
}

((EUID == 0)) || skip "needs root"
[[ -n $(command -v debootstrap) ]] || skip "needs debootstrap"
[[ -n $(command -v systemd-nspawn) ]] || skip "needs systemd-nspawn"
prefix=$(meson introspect --buildoptions "$build" | grep -o '"name": "prefix", "value": "[^"]*"' | cut -d'"' -f8)
[[ $prefix == /usr ]] || fail "$build is configured for ${prefix:-nowhere}, not for --prefix=/usr"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
base=$(debian_base "${packages[@]}") || fail "no base image"
root=$(mktemp -d "$cache/run.XXXXXX")
chmod 755 "$root"
cgroup=checkpointd-machine-$$
trap cleanup EXIT
prepare_image "$root" "$base" || fail "could not install into the image"

export -f boot
export cgroup boot_seconds
# shellcheck disable=SC2016 # the inner shell expands it
unshare --mount --propagation=private bash -euo pipefail -c 'boot "$1"' bash "$root" >"$root/console.log" 2>&1 9>&- || true
if ! grep -q '^1\.\.' "$root/result" 2>/dev/null; then
  tail -n 40 "$root/console.log" | sed 's/^/# /' >&2
  [[ ! -f $root/result ]] || sed 's/^/# /' "$root/result" >&2
  fail "did not boot, or its tests did not end in $boot_seconds s"
fi
grep '^#' "$root/result" >&2 || true
grep -v '^#' "$root/result"
! grep -q '^not ok' "$root/result"
