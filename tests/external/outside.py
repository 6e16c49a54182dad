# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of external objects share: an application in a session of its own that is dumped and restored by the
drop-in, and servers outside of it, which are threads of the test.

An application is a Python script that gets a directory. It says "ready" there, and does what the test asks for in files
named after questions; answers are files, too: so nothing but the object under test leads out of it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BUILD = os.environ.get("CHECKPOINTD_BUILD") or sys.exit("CHECKPOINTD_BUILD is not set")
PYTHON = "/usr/bin/python3"  # one that other users may run, too
CRIU = os.path.join(BUILD, "tools", "criu", "criu")

# Runs in the application: serves questions until the end. ANSWERS maps their names to functions.
PRELUDE = """
import os, socket, sys, time
base = sys.argv[1]
def say(name, text):
    with open(os.path.join(base, name + ".new"), "w") as f:
        f.write(str(text))
    os.rename(os.path.join(base, name + ".new"), os.path.join(base, name))
def serve(**answers):
    say("ready", os.getpid())
    while True:
        for name, function in answers.items():
            question = os.path.join(base, "ask-" + name)
            if os.path.exists(question):
                os.unlink(question)
                try:
                    result = function()
                except OSError as e:
                    result = type(e).__name__
                say("answer-" + name, result)
        time.sleep(0.005)
"""


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def alive(pid):
    try:
        return read(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()[0] not in "ZX"
    except OSError:
        return False


def tree(root):
    pids = [root]
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                pids += [int(p) for p in read(f"/proc/{pid}/task/{task}/children").split()]
        except OSError:
            pass
    return pids


def gone(pid):
    """Whether nothing is left of a process, which may be our child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    return not os.path.exists(f"/proc/{pid}")


def wait_until(test, seconds=120.0):
    end = time.monotonic() + seconds
    while True:
        value = test()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.005)


class Application:
    """One life after the other of one script."""

    def __init__(self, case, script, user=None, environment=None, program=None, fds=()):
        self.case = case
        self.base = case.make_directory("app")
        os.chmod(self.base, 0o777)
        self.images = None
        self.pids = set()
        command = program or [PYTHON, "-I", "-c", PRELUDE + script, self.base]
        with open(os.path.join(self.base, "stderr"), "w", encoding="utf-8") as errors:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                          start_new_session=True, cwd="/", user=user, group=user, pass_fds=fds,
                                          extra_groups=[] if user else None,
                                          env=environment or {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
        self.pid = self.child.pid
        self.pids.add(self.pid)
        if not program and not wait_until(lambda: os.path.exists(os.path.join(self.base, "ready")) or
                                          self.child.poll() is not None):
            raise AssertionError("the application does not get ready")
        if not program and self.child.poll() is not None:
            raise AssertionError("the application died: " + read(os.path.join(self.base, "stderr")))

    def ask(self, name, seconds=120.0):
        answer = os.path.join(self.base, "answer-" + name)
        open(os.path.join(self.base, "ask-" + name), "w").close()
        if not wait_until(lambda: os.path.exists(answer) or not alive(self.pid), seconds) or not os.path.exists(answer):
            raise AssertionError(f"no answer to {name}: " + read(os.path.join(self.base, "stderr")))
        text = read(answer)
        os.unlink(answer)
        return text

    def criu(self, action, *options, fds=()):
        command = [CRIU, action, "--no-default-config", "-D", self.images, "-o", f"{action}.log", "-v4", *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              timeout=300, check=False, pass_fds=fds, env=self.case.environment)
        log = read(os.path.join(self.images, f"{action}.log"))
        errors = [line for line in log.splitlines() if "Error (" in line]
        return done.returncode, "\n".join(errors) or done.stderr

    def dump(self, *options, refused=None):
        self.images = self.case.make_directory("images")
        self.pids |= set(tree(self.pid))
        status, errors = self.criu("dump", "-t", str(self.pid), *options)
        if refused is not None:
            self.case.assertNotEqual(status, 0, "the dump had to be refused")
            for text in [refused] if isinstance(refused, str) else refused:
                self.case.assertIn(text, errors)
            self.case.assertTrue(alive(self.pid))
            return errors
        self.case.assertEqual(status, 0, errors)
        if "-R" not in options:
            self.wait_for_end()
        return errors

    def restore(self, *options, refused=None, fds=()):
        for name in os.listdir(self.base):
            if name.startswith("answer-"):
                os.unlink(os.path.join(self.base, name))
        status, errors = self.criu("restore", "-d", *options, fds=fds)
        if refused is not None:
            self.case.assertNotEqual(status, 0, "the restore had to be refused")
            for text in [refused] if isinstance(refused, str) else refused:
                self.case.assertIn(text, errors)
            self.case.assertTrue(wait_until(lambda: gone(self.pid)), "a refused restore left something behind")
            return errors
        self.case.assertEqual(status, 0, errors)
        self.child = None
        self.case.assertTrue(alive(self.pid))
        return errors

    def wait_for_end(self):
        if self.child:
            self.child.wait()
        self.child = None
        if not wait_until(lambda: all(gone(pid) for pid in self.pids)):
            raise AssertionError("the dumped application is still there")

    def decoded(self, name):
        """What Debian's crit reads from an image file."""
        done = subprocess.run(["crit", "decode", "-i", os.path.join(self.images, name)], capture_output=True, text=True,
                              check=False)
        self.case.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def end(self):
        self.pids |= set(tree(self.pid))
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.child:
            self.child.wait()
            self.child = None
        wait_until(lambda: all(gone(pid) for pid in self.pids))


class Server:
    """A unix socket outside: answers each line with the line in capitals, and notes what came from whom."""

    def __init__(self, path, kind=socket.SOCK_STREAM, greeting=b"", answers=True):
        self.path = path
        self.kind = kind
        self.greeting = greeting
        self.answers = answers
        self.got = []
        self.peers = []
        self.connections = []
        self.socket = socket.socket(socket.AF_UNIX, kind)
        self.socket.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, 0o666)
        if kind != socket.SOCK_DGRAM:
            self.socket.listen()
        self.ends = False
        self.threads = [threading.Thread(target=self.run, daemon=True)]
        self.threads[0].start()

    def run(self):
        self.socket.settimeout(0.1)
        while not self.ends:
            try:
                if self.kind == socket.SOCK_DGRAM:
                    self.got.append(self.socket.recv(65536))
                else:
                    self.accept(self.socket.accept()[0])
            except socket.timeout:
                pass
            except OSError:
                return

    def accept(self, connection):
        cred = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.peers.append(tuple(int.from_bytes(cred[i:i + 4], "little") for i in (0, 4, 8)))
        self.connections.append(connection)
        if self.greeting:
            connection.sendall(self.greeting)
        thread = threading.Thread(target=self.talk, args=(connection,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def talk(self, connection):
        connection.settimeout(0.1)
        while not self.ends:
            try:
                data = connection.recv(65536)
                if not data:
                    return
                self.got.append(data)
                if self.answers:
                    connection.sendall(data.upper())
            except socket.timeout:
                pass
            except OSError:
                return

    def close(self):
        self.ends = True
        for thread in self.threads:
            thread.join()
        for connection in self.connections:
            connection.close()
        self.socket.close()
        if not self.path.startswith("\0"):
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass


class Case(unittest.TestCase):
    """Everything it makes is gone afterwards."""

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="external.")
        os.chmod(self.temporary.name, 0o755)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("MESON")}
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = ""
        self.number = 0
        self.addCleanup(self.temporary.cleanup)

    def make_directory(self, name):
        self.number += 1
        path = os.path.join(self.temporary.name, f"{name}-{self.number}")
        os.mkdir(path)
        return path

    def path(self, name):
        return os.path.join(self.temporary.name, name)

    def application(self, script, **more):
        app = Application(self, script, **more)
        self.addCleanup(app.end)
        return app

    def server(self, *args, **more):
        server = Server(*args, **more)
        self.addCleanup(server.close)
        return server

    def rules(self, **files):
        """Makes a directory of rules, which the drop-in reads instead of the machine's."""
        directory = self.make_directory("rules")
        for name, text in files.items():
            with open(os.path.join(directory, name + ".conf"), "w", encoding="utf-8") as f:
                f.write(text)
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = directory
        return directory

    def explain_log(self, app):
        return read(os.path.join(app.images, "dump.log"))


def run():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: restored trees come to us
    unittest.main(verbosity=2)
