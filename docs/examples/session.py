#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""session.py logout|login: a session manager that keeps running applications over a logout.

logout: checkpoints every application of the user; those that cannot be saved are named, with the reason, and left alone.
login: brings all of them back.

An application here is a process of the user that leads a session of its own (setsid(2)): what a desktop starts. Those that
we ourselves run in are left out. The checkpoints lie in the service's store, where nobody else can read or change them.
"""
import os
import sys

import dbus

SERVICE, PATH = "org.criu.Checkpoint", "/org/criu/Checkpoint"
PREFIX = "session-"
NOTHING = dbus.Dictionary(signature="sv")


def stat_of(pid):
    """(parent, session) of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[1]), int(fields[3])


def ancestors(pid):
    found = set()
    while pid > 1:
        found.add(pid)
        pid = stat_of(pid)[0]
    return found


def applications():
    ours = ancestors(os.getpid()) | {os.getsid(0)}
    for entry in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            pid = int(entry)
            if os.stat(f"/proc/{pid}").st_uid == os.getuid() and stat_of(pid)[1] == pid and pid not in ours:
                yield pid
        except OSError:
            pass  # it has just ended


def within(pid, roots):
    """Part of an application that was taken already?"""
    try:
        return any(p in roots for p in ancestors(stat_of(pid)[0]))
    except OSError:
        return True


def logout(manager):
    failed, roots = 0, set()
    for pid in applications():
        if within(pid, roots):
            continue
        try:
            manager.Dump(dbus.UInt32(pid), f"{PREFIX}{pid}", dbus.Dictionary({"replace": True}, signature="sv"), timeout=600)
            print(f"saved {pid}")
        except dbus.DBusException as e:
            failed += 1
            print(f"not saved: {e.get_dbus_message()}", file=sys.stderr)
        roots.add(pid)
    return failed


def login(manager):
    failed = 0
    for name, about in manager.ListCheckpoints(NOTHING):
        if not name.startswith(PREFIX):
            continue
        try:
            result = manager.Restore(name, NOTHING, timeout=600)
            manager.RemoveCheckpoint(name, NOTHING)
            print(f"back: {result['pid']} ({about['comm']})")
        except dbus.DBusException as e:
            failed += 1
            print(f"{name}: {e.get_dbus_message()}", file=sys.stderr)
    return failed


def main():
    actions = {"logout": logout, "login": login}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    bus = dbus.SystemBus()
    failed = actions[sys.argv[1]](dbus.Interface(bus.get_object(SERVICE, PATH), SERVICE + ".Manager"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
