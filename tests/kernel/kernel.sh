#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Debian's own kernel in a virtual machine (qemu, which emulates the processor: no KVM needed), a minimal Debian on it,
# and in it the programs built here: our suites, and a real criu beside ours. TAP.
#
#   kernel.sh BUILD-DIRECTORY                 the suites of inside.sh
#   kernel.sh BUILD-DIRECTORY COMMAND…        this one, in the source directory; its output and status
#
# System and kernel are fetched from the host's own mirror and kept in $CHECKPOINTD_CACHE; the machine's disk is
# thrown away after each run. In the environment: KERNEL_SUITES (names of meson's suites), KERNEL_MIB and KERNEL_CPUS,
# KERNEL_SECONDS until it is switched off, KERNEL_LOG for a copy of the console.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "${1:?usage: kernel.sh BUILD-DIRECTORY [COMMAND…]}" && pwd)
shift
# shellcheck source-path=SCRIPTDIR source=../../tools/lib/setup.sh
source "$here/../../tools/lib/setup.sh"
# shellcheck source-path=SCRIPTDIR source=../../tools/lib/debian.sh
source "$here/../../tools/lib/debian.sh"
# shellcheck disable=SC2154 # setup.sh sets it
source_root=$top
packages=(systemd systemd-sysv libpam-systemd dbus polkitd pkexec redis-server redis-tools procps python3 python3-gi
  libc6-i386 lib32gcc-s1 python3-dbus python3-dbusmock libprotobuf-c1 libseccomp2 libnl-3-200 libglib2.0-0 libxxhash0 criu meson nftables
  iproute2 strace kmod busybox-static cpio xz-utils perl sqlite3 gawk
  gcc libc6-dev make)
suites=${KERNEL_SUITES:-unit engine objects criu interop tcp plugin external client bus faults daemon}
seconds=${KERNEL_SECONDS:-7200}
qemu=
work=

fail() {
  echo "1..1"
  echo "not ok 1 - the kernel's machine: $*"
  exit 1
}

# disk_of BASE VERSION: the system with its modules as one file system; made once, only ever read.
disk_of() {
  local base=$1 version=$2
  [[ ! -f $base.ext4 ]] || return 0
  cp -a "$base.kernel/lib/modules" "$base/usr/lib/"
  chroot "$base" depmod "$version"
  mke2fs -q -t ext4 -d "$base" -E root_owner=0:0,lazy_itable_init=1 "$base.ext4.new" 8G >&2 || return 1
  mv "$base.ext4.new" "$base.ext4"
}

# initrd_of BASE VERSION: a shell and what it takes to mount the disk.
initrd_of() {
  local base=$1 version=$2 dir=$work/initrd module
  mkdir -p "$dir"/{bin,dev,proc,root,modules}
  cp "$base/bin/busybox" "$dir/bin/"
  # shellcheck disable=SC2016 # for the shell inside
  {
    printf '#!/bin/busybox sh\nbusybox mount -t devtmpfs dev /dev\n'
    for module in $(chroot "$base" modprobe -S "$version" --show-depends -a virtio_pci virtio_blk ext4 | awk '$1 == "insmod" { print $2 }' | awk '!s[$0]++'); do
      cp "$base/$module" "$dir/modules/"
      echo "busybox insmod /modules/${module##*/}"
    done
    printf 'until busybox mount -t ext4 /dev/vda /root; do busybox sleep 0.1; done\nbusybox umount /dev\n'
    printf 'busybox cp /run-inside /root/\nexec busybox switch_root /root /bin/bash /run-inside\n'
  } >"$dir/init"
  chmod 755 "$dir/init"
  (cd "$dir" && find . | chroot_cpio "$base") >"$work/initrd.img"
}

# The host may have no cpio.
chroot_cpio() {
  local base=$1
  if command -v cpio >/dev/null; then
    cpio -o -H newc --quiet
  else
    LD_LIBRARY_PATH=$base/lib/x86_64-linux-gnu "$base/bin/cpio" -o -H newc --quiet
  fi
}

# The interpreters that tests of this build call by name: the host may have them elsewhere.
interpreters() {
  meson introspect --tests "$build" | grep -o '"/[^" ]*/python3[.0-9]*"' | tr -d '"' | sort -u | tr '\n' ' '
}

# What is to be done, and sources and build as they lie here, at the same paths.
pack_tree() {
  local quoted
  printf -v quoted '%q ' "$@"
  {
    printf 'source_root=%q\nbuild=%q\nsuites=%q\npythons=%q\n' "$source_root" "$build" "$suites" "$(interpreters)"
    (($# == 0)) || printf 'command=(%s)\n' "$quoted"
    cat "$here/inside.sh"
  } >"$work/initrd/run-inside"
  tar -cf "$work/tree.tar" --exclude='*.o' --exclude='*.a' --exclude=.git --exclude="${build#/}/meson-logs/*" \
    -C / "${source_root#/}" "${build#/}"
}

# Without SMAP: qemu (7.2) reads the stack of a far return with the rights of the kernel, and programs die of that.
boot() {
  local base=$1 version=$2
  truncate -s 512M "$work/results"
  timeout --kill-after=5 "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-smap -smp "${KERNEL_CPUS:-2}" \
    -m "${KERNEL_MIB:-3072}" -nographic -no-reboot -nic none -kernel "$base.kernel/boot/vmlinuz-$version" \
    -initrd "$work/initrd.img" -append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off secretmem.enable=1" \
    -drive "file=$base.ext4,format=raw,if=virtio,snapshot=on" \
    -drive "file=$work/tree.tar,format=raw,if=virtio,readonly=on" \
    -drive "file=$work/results,format=raw,if=virtio,cache=unsafe" </dev/null >"$work/console.log" 2>&1 9>&- &
  qemu=$!
  wait "$qemu" || true
  qemu=
  mkdir "$work/out"
  tar -xf "$work/results" -C "$work/out" 2>/dev/null || true
}

cleanup() {
  [[ -z $qemu ]] || { kill "$qemu" 2>/dev/null; wait "$qemu"; } || true
  [[ -z ${KERNEL_LOG:-} ]] || cp "$work/console.log" "$KERNEL_LOG" || true
  rm -rf -- "$work"
}

main() {
  local version
  ((EUID == 0)) || { echo "1..0 # SKIP needs root"; exit 0; }
  setup_install "${setup_packages_kernel[@]}" >&2
  # shellcheck disable=SC2154 # debian.sh sets it
  mkdir -p "$debian_cache"
  work=$(TMPDIR=$debian_cache mktemp -d -t kernel.XXXXXX)
  export TMPDIR=$work
  trap cleanup EXIT
  trap 'exit 143' TERM INT HUP
  exec 9>"$debian_cache/lock"
  flock 9
  base=$(debian_base "${packages[@]}") || fail "no base system"
  version=$(debian_kernel "$base.kernel") || fail "no kernel"
  disk_of "$base" "$version" || fail "no disk"
  flock --unlock 9
  mkdir "$work/initrd"
  pack_tree "$@"
  initrd_of "$base" "$version"
  boot "$base" "$version"
  if [[ ! -f $work/out/status ]]; then
    tail -n 60 "$work/console.log" | sed 's/^/# /' >&2
    fail "it did not come to its end in $seconds s"
  fi
  if (($#)); then
    cat "$work/out/output"
    exit "$(<"$work/out/status")"
  fi
  [[ -z ${KERNEL_LOG:-} ]] || cp -a "$work/out" "$KERNEL_LOG.d"
  python3 "$here/report.py" "$version" "$work/out"
}

main "$@"
