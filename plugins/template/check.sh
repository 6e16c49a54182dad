#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# check.sh FILE…: with these in the plugin directory, a program with the device open lives through a dump and a restore,
# and it cannot be dumped without them. As root. CRIU names the drop-in to use.
set -eu
criu=${CRIU:-checkpoint-criu}
dir=$(mktemp -d)
pid=

finish() {
  [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT

# A directory of our own, as safe as the real one has to be.
mkdir -m 0755 "$dir/plugins" "$dir/images"
install -m 0755 "$@" "$dir/plugins/"

setsid sh -c 'exec 9<>/dev/loop-control; exec sleep 1000' </dev/null >/dev/null 2>&1 &
pid=$!
until [ "$(cat "/proc/$pid/comm")" = sleep ]; do sleep 0.01; done

mkdir -m 0755 "$dir/none"
if $criu dump --no-default-config -t "$pid" -D "$dir/images" -L "$dir/none" -o "$dir/refused.log"  2>"$dir/errors"; then
  echo "the dump had to be refused without the plugin" >&2
  exit 1
fi
grep -q /dev/loop-control "$dir/errors" || { cat "$dir/errors" >&2; exit 1; }

$criu dump --no-default-config -t "$pid" -D "$dir/images" -L "$dir/plugins" -o "$dir/dump.log" || { cat "$dir/dump.log" >&2; exit 1; }
wait "$pid" 2>/dev/null || true
$criu restore --no-default-config -d -D "$dir/images" -L "$dir/plugins" -o "$dir/restore.log" || { cat "$dir/restore.log" >&2; exit 1; }

found=$(readlink "/proc/$pid/fd/9")
[ "$found" = /dev/loop-control ] || { echo "descriptor 9 is $found" >&2; exit 1; }
grep -q '^flags:.*2$' "/proc/$pid/fdinfo/9" || { echo "it is not open for reading and writing" >&2; exit 1; }
echo "ok: pid $pid has its descriptor back"
