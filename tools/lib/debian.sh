# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Debian file systems for the suites that need a whole one: made by debootstrap from the host's own mirror, kept in
# $CHECKPOINTD_CACHE (/var/cache/checkpointd), one for each set of packages. Sourced.

debian_cache=${CHECKPOINTD_CACHE:-/var/cache/checkpointd}

# The first mirror of the host's apt sources that has this release's main archive.
debian_mirror() {
  local release=$1
  {
    awk -v RS= -v release="$release" '
      $0 ~ "(^|\n)Suites:[^\n]*[ \t]" release "([ \t\n]|$)" && match($0, /(^|\n)URIs:[ \t]*[^ \t\n]+/) {
        uri = substr($0, RSTART, RLENGTH); sub(/.*URIs:[ \t]*/, "", uri); print uri
      }' /etc/apt/sources.list.d/*.sources 2>/dev/null
    awk -v release="$release" '
      $1 == "deb" { i = 2; if ($2 ~ /^\[/) { while ($i !~ /\]$/) i++; i++ } if ($(i + 1) == release) print $i }
    ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null
    echo http://deb.debian.org/debian
  } | head -n 1
}

# debian_base PACKAGE…: prints the directory of a minimal system with these, making it first where there is none.
# The caller holds the cache's lock.
debian_base() {
  local release base key
  # shellcheck source=/dev/null
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  key=$(echo "$release $*" | sha256sum | cut -c1-12)
  base=$debian_cache/base-$release-$key
  if [[ ! -d $base ]]; then
    rm -rf "$base.new"
    debootstrap --variant=minbase --include="$(IFS=,; echo "$*")" \
      "$release" "$base.new" "$(debian_mirror "$release")" >"$debian_cache/debootstrap.log" 2>&1 ||
      { tail -n 20 "$debian_cache/debootstrap.log" | sed 's/^/# /' >&2; return 1; }
    rm -rf "$base.new"/var/cache/apt/archives/*.deb
    mv "$base.new" "$base"
  fi
  echo "$base"
}

# debian_kernel DIRECTORY: unpacks Debian's kernel for clouds there, unless it is there (it needs no installing); prints its version.
# The caller holds the cache's lock. Needs setup.sh.
debian_kernel() {
  local directory=$1 package
  if ! compgen -G "$directory/boot/vmlinuz-*" >/dev/null; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
    [[ -n $package ]] || { echo "# apt knows no linux-image-cloud-amd64" >&2; return 1; }
    debian_unpack "$directory" "$package" || return 1
  fi
  basename "$directory"/boot/vmlinuz-* | sed 's/^vmlinuz-//'
}

# debian_unpack DIRECTORY PACKAGE…: what is in them, not installed.
debian_unpack() {
  local directory=$1 package deb
  shift
  rm -rf "$directory.new"
  mkdir "$directory.new"
  for package in "$@"; do
    setup_fetch "$package" "$directory.new" || return 1
  done
  for deb in "$directory.new"/*.deb; do
    dpkg-deb -x "$deb" "$directory.new" || return 1
    rm -f "$deb"
  done
  mv "$directory.new" "$directory"
}
