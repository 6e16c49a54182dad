#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stand-in for org.criu.Checkpoint that does nothing but answer, for tests of the command.

What it answers depends on the arguments: a name "error:NAME" fails with that D-Bus error, "slow"
takes until it is cancelled, "stubborn" ignores that too; process 404 does not exist, process 7 has
two findings. Everything it was asked is told by the method Calls.
"""

import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

NAME = "org.criu.Checkpoint"
PATH = "/org/criu/Checkpoint"
MANAGER = NAME + ".Manager"
JOB = NAME + ".Job"
PROPERTIES = "org.freedesktop.DBus.Properties"

calls = []


FINDINGS = [{"object": f"pid 7 (x) fd {fd}: socket", "reason": "its peer is outside", "cure": "close it"}
            for fd in (3, 4)]


class Refusal(dbus.DBusException):
    def __init__(self, name, message):
        super().__init__(message, name=name)


def refuse(name, message="it is a test"):
    raise Refusal(name if "." in name else f"{NAME}.Error.{name}", message)


class Job(dbus.service.Object):
    def __init__(self, bus, number, operation, pid, name, result):
        self.path = f"{PATH}/job/{number}"
        super().__init__(bus, self.path)
        self.waiters = []
        self.outcome = None
        self.name = name
        self.result = result
        self.step = 0
        self.properties = {
            "Id": dbus.UInt64(number), "Operation": operation, "OwnerUID": dbus.UInt32(0),
            "TargetPID": dbus.UInt32(pid), "Name": name, "State": "running", "Phase": "freeze",
            "Progress": 0.0, "ProgressValid": False, "BytesTotal": dbus.UInt64(0),
            "BytesDone": dbus.UInt64(0), "Rate": dbus.UInt64(0), "Result": "",
        }
        GLib.timeout_add(120, self.advance)

    def change(self, **values):
        self.properties.update(values)
        self.PropertiesChanged(JOB, values, [])

    def advance(self):
        self.step += 1
        if self.outcome is not None:
            return False
        if self.step == 1:
            self.change(Phase="memory", ProgressValid=True, BytesTotal=dbus.UInt64(1 << 30))
            self.LogMessage(dbus.UInt32(7), "a debug line")
            self.ObjectHandled("", "pipe", dbus.UInt64(3), "saved", dbus.Dictionary({}, signature="sv"))
        elif self.name in ("slow", "stubborn"):
            self.properties.update(Progress=0.5, BytesDone=dbus.UInt64(1 << 29), Rate=dbus.UInt64(1 << 28))
        elif self.step < 5:
            self.properties.update(Progress=self.step / 5, BytesDone=dbus.UInt64(self.step << 28),
                                   Rate=dbus.UInt64(1 << 30))
        elif self.name == "fails":
            self.finish(Refusal(NAME + ".Error.NotSupported", "pid 7 (x) fd 3: a socket"))
        elif self.name == "blocked":
            self.Finished("failed", {"findings": dbus.Array(FINDINGS, signature="a{sv}")})
            self.finish(Refusal(NAME + ".Error.NotSupported", "two things"))
        elif self.name == "dies":
            loop.quit()
        else:
            self.finish(None)
        return True

    def finish(self, outcome):
        self.outcome = outcome if outcome is not None else self.result
        self.change(State="finished", Result="done" if outcome is None else "failed")
        for done, failed in self.waiters:
            self.answer(done, failed)
        self.waiters = []

    def answer(self, done, failed):
        if isinstance(self.outcome, Refusal):
            failed(self.outcome)
        else:
            done(self.outcome)

    @dbus.service.method(JOB, in_signature="", out_signature="a{sv}", async_callbacks=("done", "failed"))
    def Wait(self, done, failed):
        calls.append(("Wait", self.path, {}))
        if self.outcome is not None:
            self.answer(done, failed)
        else:
            self.waiters.append((done, failed))

    @dbus.service.method(JOB, in_signature="a{sv}", out_signature="")
    def Cancel(self, options):
        calls.append(("Cancel", self.path, {}))
        if self.name != "stubborn":
            self.change(State="cancelling")
            GLib.timeout_add(150, lambda: self.finish(Refusal(NAME + ".Error.Cancelled", "cancelled")))

    @dbus.service.method(JOB, in_signature="", out_signature="")
    def Release(self):
        calls.append(("Release", self.path, {}))

    @dbus.service.method(PROPERTIES, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface):
        return self.properties

    @dbus.service.signal(PROPERTIES, signature="sa{sv}as")
    def PropertiesChanged(self, interface, changed, invalidated):
        pass

    @dbus.service.signal(JOB, signature="us")
    def LogMessage(self, priority, line):
        pass

    @dbus.service.signal(JOB, signature="sa{sv}")
    def Finished(self, result, details):
        pass

    @dbus.service.signal(JOB, signature="sstsa{sv}")
    def ObjectHandled(self, plugin, kind, number, action, details):
        pass


def task(pid, ppid, comm):
    return dbus.Dictionary({
        "pid": dbus.UInt32(pid), "ppid": dbus.UInt32(ppid), "pgid": dbus.UInt32(100), "sid": dbus.UInt32(100),
        "comm": comm, "exe": f"/usr/bin/{comm}", "state": "alive", "threads": dbus.UInt32(2),
        "vmas": dbus.UInt32(20), "memory-bytes": dbus.UInt64(64 << 20), "pages-bytes": dbus.UInt64(3 << 20),
    }, signature="sv")


DETAILS = {
    "owner": dbus.UInt32(0), "created": dbus.UInt64(1700000000 * 10**6), "pid": dbus.UInt32(100), "comm": "sh",
    "bytes": dbus.UInt64(12 << 20), "pages": dbus.UInt64(3000), "kernel": "6.1.0",
}
TREE = [task(100, 1, "sh"), task(101, 100, "\x1b[31mred"), task(103, 101, "leaf"), task(102, 100, "tail")]
FULL = dict(DETAILS, **{
    "tasks": dbus.Array(TREE, signature="a{sv}"),
    "mappings": dbus.Array([dbus.Dictionary({
        "pid": dbus.UInt32(pid), "start": dbus.UInt64(start), "end": dbus.UInt64(end), "prot": prot,
        "kind": kind, "path": path, "pages": dbus.UInt64(1)}, signature="sv") for pid, start, end, prot, kind, path in (
            (100, 0x400000, 0x402000, "r-xp", "file", "/usr/bin/sh"),
            (100, 0x600000, 0x601000, "rw-p", "file", "/usr/bin/sh"),
            (100, 0x601000, 0x602000, "---p", "anonymous", ""), (100, 0x602000, 0x604000, "rw-p", "anonymous", ""),
            (100, 0x700000, 0x701000, "rw-p", "anonymous", ""), (103, 0x701000, 0x702000, "rw-p", "anonymous", "")
        )], signature="a{sv}"),
    "files": dbus.Array([dbus.Dictionary({
        "pid": dbus.UInt32(100), "fd": dbus.UInt32(1), "type": "pipe", "path": "pipe:[7]", "flags": "w"},
        signature="sv")], signature="a{sv}"),
})


class Manager(dbus.service.Object):
    def __init__(self, bus):
        super().__init__(bus, PATH)
        self.bus = bus
        self.jobs = []

    def start(self, method, pid, name, options, result):
        calls.append((method, str(name), {str(k): str(v) for k, v in options.items()}))
        if name.startswith("error:"):
            refuse(name[len("error:"):])
        if pid == 404:
            refuse("NoSuchProcess", "there is no process 404")
        job = Job(self.bus, len(self.jobs) + 1, method[5:].lower(), pid, name, result)
        self.jobs.append(job)
        self.JobNew(job.path, {})
        return dbus.ObjectPath(job.path)

    @dbus.service.method(MANAGER, in_signature="usa{sv}", out_signature="o")
    def StartDump(self, pid, name, options):
        return self.start("StartDump", pid, name, options, dbus.Dictionary({
            "tasks": dbus.UInt64(3), "bytes": dbus.UInt64(12 << 20), "frozen-usec": dbus.UInt64(3100),
            "total-usec": dbus.UInt64(10200), "pid": dbus.UInt32(pid)}, signature="sv"))

    @dbus.service.method(MANAGER, in_signature="sa{sv}", out_signature="o")
    def StartRestore(self, name, options):
        return self.start("StartRestore", 0, name, options,
                          dbus.Dictionary({"pid": dbus.UInt32(812)}, signature="sv"))

    @dbus.service.method(MANAGER, in_signature="ua{sv}", out_signature="aa{sv}")
    def Explain(self, pid, options):
        if pid == 404:
            refuse("NoSuchProcess", "there is no process 404")
        if pid != 7:
            return dbus.Array([], signature="a{sv}")
        return FINDINGS

    @dbus.service.method(MANAGER, in_signature="a{sv}", out_signature="ba{sv}")
    def Check(self, options):
        return True, {"kernel": "6.1.0", "pagemap-scan": True}

    @dbus.service.method(MANAGER, in_signature="a{sv}", out_signature="a(sa{sv})")
    def ListCheckpoints(self, options):
        calls.append(("ListCheckpoints", "", {str(k): str(v) for k, v in options.items()}))
        if "owner" in options and options["owner"] == 99:
            return dbus.Array([], signature="(sa{sv})")
        details = dict(DETAILS, tasks=dbus.UInt64(3))
        return [("first", details), ("second", details)]

    @dbus.service.method(MANAGER, in_signature="sa{sv}", out_signature="a{sv}")
    def DescribeCheckpoint(self, name, options):
        if name == "nothing":
            refuse("NoSuchCheckpoint", "no checkpoint nothing")
        if name == "damaged":
            return dict(DETAILS, **{"tasks": dbus.UInt64(3), "images-error": "core-7.img: \x1b broken", "complete": True,
                                    "any-target": True})
        if name == "huge":
            return dict(FULL, truncated=True, complete=True)
        return FULL if name == "full" else dict(DETAILS, tasks=dbus.UInt64(3))

    @dbus.service.method(MANAGER, in_signature="sa{sv}", out_signature="")
    def RemoveCheckpoint(self, name, options):
        calls.append(("RemoveCheckpoint", str(name), {}))
        if name == "nothing":
            refuse("NoSuchCheckpoint", "no checkpoint nothing")

    @dbus.service.method(MANAGER, in_signature="a{sv}", out_signature="a(oa{sv})")
    def ListJobs(self, options):
        if not self.jobs:
            return dbus.Array([], signature="(oa{sv})")
        return [(dbus.ObjectPath(job.path), job.properties) for job in self.jobs]

    @dbus.service.method(MANAGER, in_signature="", out_signature="")
    def Subscribe(self):
        calls.append(("Subscribe", "", {}))

    @dbus.service.signal(MANAGER, signature="oa{sv}")
    def JobNew(self, job, details):
        pass

    @dbus.service.method(NAME + ".Mock", in_signature="", out_signature="s")
    def Calls(self):
        return repr(calls)


dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
loop = GLib.MainLoop()
connection = dbus.SystemBus()
manager = Manager(connection)
owned = dbus.service.BusName(NAME, connection)
print("ready", flush=True)
loop.run()
sys.exit(0)
