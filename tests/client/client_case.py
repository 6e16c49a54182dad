# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of libcheckpoint and of callers' directories share. They run below tools/with-bus with allow.rules of this
folder: "nobody" may dump and restore what is its own and restore images from directories; "games" may dump anything, too.
The argument is the build directory."""
import contextlib
import ctypes
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import dbus

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else ""
SERVICE, PATH = "org.criu.Checkpoint", "/org/criu/Checkpoint"
MANAGER, JOB = SERVICE + ".Manager", SERVICE + ".Job"
E = SERVICE + ".Error."
NOBODY = 65534
INTERACTION = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
SYS_pidfd_open = 434


def pidfd_open(pid):
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_pidfd_open, pid, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    return fd


def wait_for(condition, what, seconds=120, pause=0.01):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds} s")


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def tree_of(pid):
    found = [pid]
    for p in found:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children", encoding="ascii") as f:
                    found += [int(x) for x in f.read().split()]
        except OSError:
            pass
    return found


# What another user's client does, in a process of its own that is that user: METHOD and arguments as JSON; a directory or
# a process is given as ["dir", path], ["file", path] or ["pid", number].
CLIENT = r"""
import ctypes, dbus, json, os, sys
def pidfd(pid):
    return ctypes.CDLL(None).syscall(434, pid, 0)
def value(a):
    if isinstance(a, list):
        fd = pidfd(a[1]) if a[0] == "pid" else os.open(a[1], os.O_PATH if a[0] == "path" else os.O_RDONLY)
        return dbus.types.UnixFd(fd)
    if isinstance(a, dict) and "u" in a:
        return dbus.UInt32(a["u"])
    if isinstance(a, dict) and "t" in a:
        return dbus.UInt64(a["t"])
    if isinstance(a, dict):
        return dbus.Dictionary({k: value(v) for k, v in a.items()}, signature="sv")
    return a
method, args = sys.argv[1], [value(a) for a in json.loads(sys.argv[2])]
bus = dbus.SystemBus()
try:
    manager = dbus.Interface(bus.get_object("org.criu.Checkpoint", "/org/criu/Checkpoint"), "org.criu.Checkpoint.Manager")
    reply = getattr(manager, method)(*args, timeout=300)
    if isinstance(reply, dbus.ObjectPath):
        job = dbus.Interface(bus.get_object("org.criu.Checkpoint", reply), "org.criu.Checkpoint.Job")
        reply = job.Wait(timeout=300)
    print(json.dumps({"pid": int(reply.get("pid", 0))} if reply else {}))
except dbus.DBusException as e:
    print(json.dumps({"error": e.get_dbus_name(), "text": e.get_dbus_message()}))
"""


def dbus_u(number):
    return {"u": number}


def dbus_t(number):
    return {"t": number}


def end_now(pid):
    with contextlib.suppress(ProcessLookupError):  # it may have ended since
        os.kill(pid, signal.SIGKILL)


class Client(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="client.")
        os.chmod(self.dir, 0o755)
        self.processes, self.pids, self.names, self.mounts = [], set(), [], []

    def tearDown(self):
        for pid in self.pids:
            for p in tree_of(pid):
                if is_running(p):
                    end_now(p)
        for pid in self.running_from(self.dir):
            end_now(pid)
        for process in self.processes:
            process.wait()
        for uid, name in self.names:
            self.ask("RemoveCheckpoint", name, {}, uid=uid)
        for mount in self.mounts:
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def running_from(folder):
        """Processes of programs below a folder, whoever their parents are."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/exe").startswith(folder + "/"):
                    yield int(pid)
            except OSError:
                pass

    def folder(self, name, uid=0, mode=0o700):
        path = os.path.join(self.dir, name)
        os.mkdir(path)
        os.chmod(path, mode)
        os.chown(path, uid, uid)
        return path

    @staticmethod
    def become(uid, limits=None):
        def drop():
            os.setsid()
            if limits:
                import resource
                resource.setrlimit(*limits)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
        return drop

    def start(self, *command, uid=0, env=None):
        with open(os.devnull, "r+b") as null:
            process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, preexec_fn=self.become(uid), cwd="/",
                                       env={**os.environ, **(env or {})})
        self.pids.add(process.pid)
        self.processes.append(process)
        return process

    def ask(self, method, *args, uid=0, before=(), limits=None):
        """The reply as JSON: pid, or error and text."""
        done = subprocess.run([*before, "/usr/bin/python3", "-c", CLIENT, method, json.dumps(args)], stdout=subprocess.PIPE,
                              text=True, preexec_fn=self.become(uid, limits), timeout=600, check=True)
        return json.loads(done.stdout)

    def refused(self, name, says, method, *args, **kwargs):
        reply = self.ask(method, *args, **kwargs)
        self.assertEqual(reply.get("error"), name, reply)
        self.assertRegex(reply["text"], says)

    def works(self, method, *args, **kwargs):
        reply = self.ask(method, *args, **kwargs)
        self.assertNotIn("error", reply)
        return reply.get("pid", 0)

    def end(self, pid):
        for p in tree_of(pid):
            if is_running(p):
                os.kill(p, signal.SIGKILL)
        self.gone(pid)

    def gone(self, pid):
        def look():
            for process in self.processes:
                process.poll()
            return not os.path.exists(f"/proc/{pid}")
        wait_for(look, f"pid {pid} is gone")

    def snapshot(self, name, *options, uid=0, program="snapshot"):
        """A running snapshot program; it has written one line."""
        if not name.startswith("@"):
            self.names.append((uid, name))
        out = os.path.join(self.folder(f"out{len(self.processes)}", uid), "lines")
        process = self.start(os.path.join(BUILD, "tests/client", program), name, out, *options, uid=uid)
        process.out = out
        return process

    def lines(self, process, n):
        def read():
            try:
                with open(process.out, encoding="utf-8") as f:
                    return f.read().splitlines()
            except OSError:
                return []
        wait_for(lambda: len(read()) >= n, f"{n} lines in {process.out}")
        return read()


__all__ = [name for name in dir() if not name.startswith("__")]
