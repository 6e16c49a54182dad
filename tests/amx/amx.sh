#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Registers that few processors have, AMX tiles above all, on an emulated Sapphire Rapids: Debian's kernel, the drop-in and the
# programs of tests/engine on it, in Bochs. TAP.
#
#   amx.sh BUILD-DIRECTORY
#
# Bochs is built from Debian's source package (trixie's) with bochs.patch, and kept in $CHECKPOINTD_CACHE with the kernel. In the
# environment: AMX_SECONDS until it is switched off, AMX_LOG for a copy of the console, AMX_IMAGES for one of the images that
# tests/engine/tiles-elsewhere reads, AMX_KERNEL for a directory with another kernel (boot/vmlinuz-…).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "${1:?usage: amx.sh BUILD-DIRECTORY}" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../tools/lib/setup.sh
source "$here/../../tools/lib/setup.sh"
# shellcheck source-path=SCRIPTDIR source=../../tools/lib/debian.sh
source "$here/../../tools/lib/debian.sh"
source_path=pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz
source_sha256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b
configuration=(--with-nogui --enable-x86-64 --enable-cpu-level=6 --enable-avx --enable-evex --enable-amx --enable-protection-keys
  --enable-all-optimizations --enable-pci --enable-cdrom --enable-memtype --disable-docbook)
programs=("$build/tools/criu/criu" "$build/tests/engine/subject-registers" "$build/tests/engine/subject-mapflags")
seconds=${AMX_SECONDS:-900}
bochs=
work=

fail() {
  echo "1..1"
  echo "not ok 1 - the emulated machine: $*"
  exit 1
}

# build_bochs DIRECTORY: what is needed of it there.
build_bochs() {
  local directory=$1 sources=$work/bochs mirror
  mirror=$(debian_mirror "$(. /etc/os-release && echo "$VERSION_CODENAME")")
  mkdir "$sources"
  /usr/lib/apt/apt-helper -q -o APT::Sandbox::User=root download-file "$mirror/$source_path" "$work/bochs.tar.xz" "SHA256:$source_sha256" >&2 || return 1
  tar -xf "$work/bochs.tar.xz" -C "$sources" --strip-components=1
  patch -s -p1 -d "$sources" <"$here/bochs.patch" || return 1
  if ! (cd "$sources" && ./configure "${configuration[@]}" CFLAGS=-O2 CXXFLAGS=-O2 && nice make -j"$(nproc)") >"$work/bochs.log" 2>&1; then
    tail -n 20 "$work/bochs.log" | sed 's/^/# /' >&2
    return 1
  fi
  debian_unpack "$directory" bochsbios vgabios isolinux syslinux-common busybox-static || return 1
  cp "$sources/bochs" "$directory/bochs"
}

# The programs and what they are linked with, and PID 1.
make_initrd() {
  local dir=$work/initrd file
  mkdir -p "$dir"/{bin,dev,proc,sys,tmp,run}
  cp "$1/bin/busybox" "$dir/bin/busybox"
  ln -s busybox "$dir/bin/sh"
  cp "${programs[@]}" "$dir/bin/"
  ldd "${programs[@]}" | grep -o '/[^ :]*' | sort -u | while read -r file; do
    [[ $file == "$build"/* ]] || install -D "$file" "$dir$file"
  done
  install -m 755 "$here/inside.sh" "$dir/init"
  (cd "$dir" && find . | "$1/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/iso/initrd.img"
}

# make_disk EMULATOR KERNEL: what the machine boots from. Its processor has FSRM without ERMS, which Linux 6.1 takes for impossible:
# its memmove then destroys memory. So it is told that there is no FSRM (580).
make_disk() {
  local iso=$work/iso
  mkdir -p "$iso/isolinux"
  cp "$2"/boot/vmlinuz-* "$iso/vmlinuz"
  cp "$1/usr/lib/ISOLINUX/isolinux.bin" "$1/usr/lib/syslinux/modules/bios/ldlinux.c32" "$iso/isolinux/"
  make_initrd "$1"
  printf '%s\n' 'DEFAULT linux' 'PROMPT 0' 'LABEL linux' 'KERNEL /vmlinuz' 'INITRD /initrd.img' \
    'APPEND console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check nosmp clearcpuid=580' >"$iso/isolinux/isolinux.cfg"
  genisoimage -quiet -o "$work/disk.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table "$iso" >&2
}

boot() {
  local emulator=$1
  cat >"$work/bochsrc" <<RC
plugin_ctrl: speaker=0, parallel=0
display_library: nogui
cpu: model=sapphire_rapids, count=1, ips=80000000, reset_on_triple_fault=0, ignore_bad_msrs=1, exclude_features="la57, waitpkg, pks"
memory: guest=1024, host=1024
romimage: file=$emulator/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=$emulator/usr/share/vgabios/vgabios.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$work/disk.iso, status=inserted
boot: cdrom
log: $work/bochs.log
com1: enabled=1, mode=file, dev=$work/console
com2: enabled=1, mode=file, dev=$work/results
com3: enabled=1, mode=file, dev=$work/images.tar.gz
clock: sync=none
panic: action=fatal
error: action=ignore
info: action=ignore
RC
  timeout --kill-after=5 "$seconds" nice -n 19 "$emulator/bochs" -q -f "$work/bochsrc" </dev/null >"$work/output" 2>&1 9>&- &
  bochs=$!
  wait "$bochs" || true
  bochs=
}

# The images that came out of the machine, on a processor without AMX: refused before anything is made.
check_elsewhere() {
  local number=$1 name="a processor without AMX refuses the images" errors
  if grep -q amx_tile /proc/cpuinfo; then
    echo "ok $number - $name # SKIP this CPU has AMX"
    return
  fi
  mkdir "$work/images"
  if tar -xzf "$work/images.tar.gz" -C "$work/images" 2>/dev/null && [[ -f $work/images/inventory.img ]] &&
    ! errors=$("${programs[0]}" restore --no-default-config -D "$work/images" -o restore.log -d 2>&1) && [[ $errors == *"tile registers of AMX"* ]]; then
    echo "ok $number - $name"
  else
    echo "not ok $number - $name"
    echo "# ${errors:-it was restored, or there are no images}"
  fi
}

report() {
  local planned
  planned=$(sed -n 's/^1\.\.\([0-9]*\)\r*$/\1/p' "$work/results" | head -n 1)
  if [[ -z $planned || $(grep -c '^\(not \)\?ok ' "$work/results") != "$planned" ]]; then
    tail -n 40 "$work/console" "$work/results" "$work/output" 2>/dev/null | sed 's/^/# /' >&2
    fail "it did not come to its end in $seconds s"
  fi
  echo "1..$((planned + 1))"
  tr -d '\r' <"$work/results" | grep -v '^1\.\.'
  check_elsewhere $((planned + 1)) | tee "$work/elsewhere"
  ! grep -q '^not ok' "$work/results" "$work/elsewhere" || exit 1
}

cleanup() {
  [[ -z $bochs ]] || { kill "$bochs" 2>/dev/null; wait "$bochs"; } || true
  [[ -z ${AMX_LOG:-} || ! -f $work/console ]] || cp "$work/console" "$AMX_LOG" || true
  [[ -z ${AMX_IMAGES:-} || ! -f $work/images.tar.gz ]] || cp "$work/images.tar.gz" "$AMX_IMAGES" || true
  rm -rf -- "$work"
}

main() {
  local key emulator kernel
  ((EUID == 0)) || { echo "1..0 # SKIP needs root"; exit 0; }
  setup_install "${setup_packages_amx[@]}" >&2
  # shellcheck disable=SC2154 # debian.sh sets it
  mkdir -p "$debian_cache"
  work=$(TMPDIR=$debian_cache mktemp -d -t amx.XXXXXX)
  trap cleanup EXIT
  trap 'exit 143' TERM INT HUP
  exec 9>"$debian_cache/lock"
  flock 9
  key=$({ cat "$here/bochs.patch"; echo "$source_sha256 ${configuration[*]}"; } | sha256sum | cut -c1-12)
  emulator=$debian_cache/bochs-$key kernel=${AMX_KERNEL:-$debian_cache/kernel-cloud}
  [[ -x $emulator/bochs ]] || build_bochs "$emulator" || fail "no Bochs: it is built from $source_path of Debian's mirror"
  debian_kernel "$kernel" >/dev/null || fail "no kernel"
  flock --unlock 9
  mkdir "$work/iso"
  make_disk "$emulator" "$kernel"
  boot "$emulator"
  report
}

main "$@"
