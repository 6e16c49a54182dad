#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""follow.py PID NAME: checkpoints an application, shows how far it is, and brings it back.

Everything is a call of org.criu.Checkpoint(5); any D-Bus library does. This one is dbus-python, with GLib's loop for the
signals. A long job is begun with a Start method, so that the 25 seconds a client waits do not matter.
"""
import sys

import dbus
import dbus.mainloop.glib
from gi.repository import GLib

SERVICE, PATH = "org.criu.Checkpoint", "/org/criu/Checkpoint"


def follow(bus, manager, begin):
    """Calls begin() and tells what becomes of the job. Its result, or a DBusException."""
    loop, jobs, seen = GLib.MainLoop(), [], []

    def on_change(interface, changed, invalidated, path):
        seen.append((path, changed))
        if path in jobs:
            show(changed)

    def show(changed):
        if changed.get("Phase"):
            print("  ", changed["Phase"])
        if changed.get("State") == "finished":
            loop.quit()

    match = bus.add_signal_receiver(on_change, "PropertiesChanged", "org.freedesktop.DBus.Properties", SERVICE,
                                    path_keyword="path")
    jobs.append(begin())
    for path, changed in list(seen):  # what came before the answer
        if path in jobs:
            GLib.idle_add(show, changed)
    GLib.timeout_add_seconds(600, loop.quit)
    loop.run()
    match.remove()
    return dbus.Interface(bus.get_object(SERVICE, jobs[0]), SERVICE + ".Job").Wait()


def main(pid, name):
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    bus = dbus.SystemBus()
    manager = dbus.Interface(bus.get_object(SERVICE, PATH), SERVICE + ".Manager")
    options = dbus.Dictionary({"replace": True}, signature="sv")
    try:
        blockers = manager.Explain(dbus.UInt32(pid), dbus.Dictionary(signature="sv"))
        if blockers:
            return "\n".join(f"{b['object']}: {b['reason']} ({b['cure']})" for b in blockers)
        print("dump")
        result = follow(bus, manager, lambda: manager.StartDump(dbus.UInt32(pid), name, options))
        print(f"{result['bytes']} bytes; it stood still for {result['frozen-usec']} microseconds")
        print("restore")
        result = follow(bus, manager, lambda: manager.StartRestore(name, dbus.Dictionary(signature="sv")))
        print(f"process {result['pid']} goes on")
    except dbus.DBusException as e:
        return f"{e.get_dbus_name()}: {e.get_dbus_message()}"
    return None


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
