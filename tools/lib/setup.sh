# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034 # the package lists are for those who source this
#
# Set-up shared by tools/demo, tools/test and tests/machine: Debian packages and builds. Sourced.
# Nothing is fetched when everything is there, so a second run needs no network.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

setup_fail() {
  echo "set-up: $*" >&2
  exit 1
}

# What the build, the demo and the suites need on Debian 12.
setup_packages_build=(gcc gcc-multilib libc6-dev meson ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev libprotobuf-dev
  libglib2.0-dev libsystemd-dev libseccomp-dev libnl-3-dev libxxhash-dev)
setup_packages_run=(dbus polkitd pkexec systemd redis-server redis-tools procps util-linux python3)
setup_packages_test=(clang llvm libclang-rt-14-dev python3-gi python3-dbus python3-dbusmock criu debootstrap
  systemd-container shellcheck man-db bash-completion nginx-light nftables iproute2 postgresql sqlite3 perl nodejs strace
  tmux vim less screen htop xz-utils zstd make xvfb xauth x11-apps x11-utils weston xterm memcached mariadb-server mariadb-client
  default-jdk-headless erlang-base apache2 wrk qemu-system-x86 chrony)

# What the suite soak needs beside them.
setup_packages_soak=(apache2-utils lighttpd haproxy varnish dnsmasq-base php-cli php-fpm golang-go ruby sbcl guile-3.0 lua5.4 tcl
  ocaml-nox ocaml-findlib qemu-user-static emacs-nox ffmpeg sccache r-base-core octave mono-mcs mono-runtime)

# What the suite kernel needs, which is not run by default.
setup_packages_kernel=(qemu-system-x86 debootstrap e2fsprogs)

# What the suite amx needs, which is not run by default.
setup_packages_amx=(g++ make patch xz-utils genisoimage)

# setup_missing PACKAGE…: prints those that are not installed.
setup_missing() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# setup_install PACKAGE…: installs what is missing; services of the packages are not started.
setup_install() {
  local missing policy=/usr/sbin/policy-rc.d ours=no
  mapfile -t missing < <(setup_missing "$@")
  ((${#missing[@]})) || return 0
  ((EUID == 0)) || setup_fail "needs root to install: ${missing[*]}"
  echo "set-up: installing ${missing[*]}" >&2
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    ours=yes
  fi
  setup_apt "${missing[@]}" || { [[ $ours == no ]] || rm -f "$policy"; setup_fail "apt-get could not install ${missing[*]}"; }
  [[ $ours == no ]] || rm -f "$policy"
}

setup_apt() {
  local log status=0
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@"
  } </dev/null >"$log" 2>&1 || status=$?
  ((status == 0)) || tail -n 40 "$log" >&2
  rm -f "$log"
  return "$status"
}

# setup_fetch PACKAGE DIR: its .deb into DIR, not installed.
setup_fetch() {
  local package=$1 dir=$2
  (cd "$dir" && setup_quietly apt-get -q -o APT::Sandbox::User=root download "$package")
}

# setup_build DIR [MESON-OPTION…]: configures DIR once, for Debian's places, and builds it.
setup_build() {
  local dir=$1
  shift
  if [[ ! -f $dir/build.ninja ]]; then
    setup_quietly meson setup "$dir" "$top" --prefix=/usr --sysconfdir=/etc --localstatedir=/var "$@"
  fi
  setup_quietly ninja -C "$dir"
}

# setup_quietly COMMAND…: its output only if it fails.
setup_quietly() {
  local log status=0
  log=$(mktemp)
  echo "set-up: $*" >&2
  "$@" </dev/null >"$log" 2>&1 || status=$?
  if ((status)); then
    cat "$log" >&2
    rm -f "$log"
    setup_fail "failed with status $status: $*"
  fi
  rm -f "$log"
}
