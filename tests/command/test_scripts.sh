#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Every shell script of the tree passes shellcheck, every man page formats without a warning. TAP.
# SOURCE_ROOT names the tree.
set -uo pipefail

cd "${SOURCE_ROOT:?}" || exit 1
number=0
failures=0

result() {
  ((++number))
  if (($2 == 0)); then
    echo "ok $number - $1"
  else
    echo "not ok $number - $1"
    ((++failures))
  fi
}

scripts() {
  local file
  find .ci tools tests docs plugins -type f -perm -u+x -print | sort | while read -r file; do
    ! head -c 64 "$file" | head -n 1 | grep -qaE '^#!/bin/(ba)?sh' || echo "$file"
  done
  find tools tests -name '*.bash' -type f -print
}

mapfile -t found < <(scripts)
for script in "${found[@]}"; do
  shell=bash
  head -n 1 "$script" | grep -q '^#!/bin/sh' && shell='sh'
  shellcheck -x -s "$shell" "$script" >&2
  result "shellcheck $script" $?
done
for page in docs/man/*.[1-8]; do
  warnings=$(MANROFFSEQ='' MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null)
  [[ -z $warnings ]] || echo "$warnings" >&2
  result "man page $page" $((${#warnings} > 0))
done
echo "1..$number"
exit $((failures > 0))
