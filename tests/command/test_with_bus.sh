#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# tools/with-bus leaves nothing behind: no process, no mount, no file; whatever ends it. TAP.
# SOURCE_ROOT names the tree. The service is a stand-in, so the test needs no build of it.
#
# shellcheck disable=SC2016,SC2317 # inner shells expand; check() calls the functions
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${SOURCE_ROOT:-$(cd "$here/../.." && pwd)}
number=0
failures=0

((EUID == 0)) || { echo "1..0 # SKIP needs root"; exit 0; }

work=$(mktemp -d /tmp/with-bus-test.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/build/daemon" "$work/build/dbus" "$work/tmp"
chmod 1777 "$work/tmp"
export TMPDIR=$work/tmp
sed "s|^HERE = .*||" "$here/mock_service.py" >"$work/build/daemon/checkpointd"
chmod 755 "$work/build/daemon/checkpointd"
cat >"$work/build/dbus/org.criu.Checkpoint.conf" <<'CONF'
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="root"><allow own="org.criu.Checkpoint"/></policy>
  <policy context="default"><allow send_destination="org.criu.Checkpoint"/></policy>
</busconfig>
CONF
cat >"$work/build/dbus/org.criu.Checkpoint.policy" <<'POLICY'
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/PolicyKit/1.0/policyconfig.dtd">
<policyconfig>
  <action id="org.criu.Checkpoint.with-bus-test">
    <description>test</description>
    <message>test</message>
    <defaults><allow_any>no</allow_any><allow_inactive>no</allow_inactive><allow_active>no</allow_active></defaults>
  </action>
</policyconfig>
POLICY
cat >"$work/test.rules" <<'RULES'
polkit.addRule(function (action, subject) {
  if (action.id == "org.criu.Checkpoint.with-bus-test" && subject.user == "nobody")
    return polkit.Result.YES;
});
RULES

with_bus() {
  "$root/tools/with-bus" --build "$work/build" "$@"
}

check() {
  local what=$1
  shift
  ((++number))
  if "$@"; then
    echo "ok $number - $what"
  else
    echo "not ok $number - $what"
    ((++failures))
  fi
}

# Everything that a run could leave behind, told by the run's own directory.
nothing_left() {
  local left=0 proc
  for proc in /proc/[0-9]*; do
    if grep -qsF "$work/tmp/with-bus." "$proc/environ" "$proc/cmdline" "$proc/mounts"; then
      echo "# left behind: ${proc#/proc/}: $(tr '\0' ' ' <"$proc/cmdline")"
      left=1
    fi
  done
  if [[ -n $(ls -A "$work/tmp") ]]; then
    echo "# left behind: $(ls -A "$work/tmp")"
    left=1
  fi
  return "$left"
}

manager() {
  echo "busctl --system call org.criu.Checkpoint /org/criu/Checkpoint org.criu.Checkpoint.Manager $*"
}

check_status() {
  local wanted=$1 status=0
  shift
  "$@" >"$work/output" 2>&1 || status=$?
  [[ $status == "$wanted" ]] || { sed 's/^/# /' "$work/output"; echo "# status $status instead of $wanted"; false; }
}

killed_by() {
  local pid
  "$root/tools/with-bus" --build "$work/build" sh -c 'echo up; exec sleep 300' >"$work/output" 2>&1 &
  pid=$!
  for _ in {1..1200}; do
    ! grep -q up "$work/output" || break
    sleep 0.05
  done
  kill "-$1" "$pid"
  wait "$pid" 2>/dev/null
}

echo "1..17"
check "the exit status is the command's" check_status 42 with_bus sh -c 'exit 42'
check "… and nothing stays" nothing_left
check "the service is activated" check_status 0 with_bus sh -c "$(manager 'ListJobs a{sv} 0')"
check "… and nothing of it stays" nothing_left
check "--as runs the command as that user" check_status 0 with_bus --as nobody sh -c "[ \$(id -un) = nobody ] && $(manager 'ListJobs a{sv} 0')"
pkcheck='pkcheck --action-id org.criu.Checkpoint.with-bus-test --process $$'
check "polkit knows our action and refuses it" check_status 1 with_bus --as nobody sh -c "$pkcheck"
check "--rules grants it" check_status 0 with_bus --rules "$work/test.rules" --as nobody sh -c "$pkcheck"
check "… and nothing stays" nothing_left
check "the host has no such action" test -z "$(grep -rl with-bus-test /usr/share/polkit-1/actions /etc/polkit-1 2>/dev/null)"
check "--no-polkit has none" check_status 1 with_bus --no-polkit busctl --system status org.freedesktop.PolicyKit1
check "the store is given to the command" check_status 0 with_bus sh -c '[ -n "$CHECKPOINTD_STORE" ]'
check "a store that is set is kept" check_status 0 env CHECKPOINTD_STORE=/x "$root/tools/with-bus" --build "$work/build" sh -c '[ "$CHECKPOINTD_STORE" = /x ]'
check "standard input reaches the command" check_status 0 sh -c "echo word | '$root/tools/with-bus' --build '$work/build' grep -q word"
check "wrong usage is told" check_status 125 with_bus --nonsense
check "SIGTERM ends the command and everything" check_status 143 killed_by TERM
check "… and nothing stays" nothing_left
check "a run beside another works" check_status 0 with_bus "$root/tools/with-bus" --build "$work/build" sh -c "$(manager 'ListJobs a{sv} 0')"
exit $((failures > 0))
