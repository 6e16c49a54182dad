# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of plugins share: a directory of plugins, a program with objects that only they can bring back, and the drop-in."""
import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BUILD = os.path.abspath(sys.argv.pop(1))
HERE = os.path.join(BUILD, "tests/plugin")
CRIU = os.path.join(BUILD, "tools/criu/criu")
ENGINE = os.path.join(BUILD, "engine/checkpointd-engine")
ERRNOS = (1, 2, 5, 9, 11, 12, 13, 22, 28, 110, 125, 133)


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def state(pid):
    return read(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()[:1]


def wait_until(test, seconds=120.0):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class EchoServer:
    """The process at the other end: says pong."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if ".seqpacket" in path else socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen()
        self.clients = 0
        self.peers = []
        self.uids = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.clients += 1
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.peers.append(int.from_bytes(credentials[:4], sys.byteorder))
            self.uids.append(int.from_bytes(credentials[4:8], sys.byteorder))
            threading.Thread(target=self.echo, args=[client], daemon=True).start()

    @staticmethod
    def echo(client):
        with client:
            try:
                while client.recv(4) == b"ping":
                    client.sendall(b"pong")
            except OSError:
                pass

    def close(self):
        self.socket.close()


class PluginCase(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="plugin-test.")
        os.chmod(self.dir, 0o755)
        self.plugins = self.path("plugins")
        self.images = self.path("images")
        os.mkdir(self.plugins, 0o755)
        os.mkdir(self.images)
        self.server = EchoServer(self.path("echo"))
        self.pid = 0
        self.child = None
        self.do = {}

    def tearDown(self):
        self.end()
        self.server.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def install(self, *names):
        for name in names:
            shutil.copy(os.path.join(HERE, name), self.plugins)
            os.chmod(os.path.join(self.plugins, name), 0o755)

    def install_process(self, kinds="unix-socket;file;memory", name="prog", more="", do=""):
        shutil.copy(os.path.join(HERE, "test-process"), os.path.join(self.plugins, name))
        with open(os.path.join(self.plugins, name + ".plugin"), "w", encoding="utf-8") as f:
            f.write(f"[Plugin]\nProgram={name}\nKinds={kinds}\nVersion=3\nDescription=A program\n{more}\n")
        self.tell_process(do, name)

    def tell_process(self, do, name="prog"):
        with open(os.path.join(self.plugins, name + ".conf"), "w", encoding="utf-8") as f:
            f.write(f"{self.path('calls')}\n{do}")

    def start(self, *args):
        self.base = self.path("subject")
        if "unix" in args:
            args = [f"unix={self.path('echo')}" if a == "unix" else a for a in args]
        with open(os.devnull, "r+b") as null:
            self.child = subprocess.Popen([os.path.join(HERE, "outside"), self.base, *args], stdin=null, stdout=null,
                                          stderr=null, start_new_session=True, cwd="/", close_fds=True)
        self.pid = self.child.pid
        self.assertTrue(wait_until(lambda: os.path.exists(self.base + ".ready") or self.child.poll() is not None))
        if read(self.base + ".result").startswith("SKIP"):
            self.skipTest(read(self.base + ".result"))
        self.assertTrue(os.path.exists(self.base + ".ready"), read(self.base + ".result"))

    def end(self):
        if self.pid and state(self.pid) not in ([], ["Z"]):
            with contextlib.suppress(ProcessLookupError):  # it may have ended since
                os.kill(self.pid, signal.SIGKILL)
        if self.child:
            self.child.wait()
        elif self.pid:
            wait_until(lambda: state(self.pid) in ([], ["Z"]))
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass
        self.pid, self.child = 0, None

    def criu(self, action, *args, do="", status=0, timeout=300):
        log = os.path.join(self.images, action + ".log")
        env = dict(os.environ, PLUGIN_CALLS=self.path("calls"), PLUGIN_DO=do)
        env.pop("CHECKPOINTD_PLUGINS", None)
        done = subprocess.run([CRIU, action, "--no-default-config", "-D", self.images, "-o", action + ".log", "-v4", "-L",
                               self.plugins, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False, env=env)
        self.log = read(log) + done.stderr
        if status is not None:
            self.assertEqual(done.returncode, status, self.log)
        return done.returncode

    def dump(self, *args, **kw):
        status = self.criu("dump", "-t", str(self.pid), *args, **kw)
        if status == 0 and "-R" not in args:
            self.child.wait()
            self.child = None
        return status

    def restore(self, *args, **kw):
        return self.criu("restore", "-d", *args, **kw)

    def pages(self):
        found = b""
        for path in glob.glob(os.path.join(self.images, "pages-*.img")):
            with open(path, "rb") as f:
                found += f.read()
        return found

    def calls(self):
        return read(self.path("calls")).splitlines()

    def call(self, prefix):
        found = [c for c in self.calls() if c.startswith(prefix)]
        self.assertEqual(len(found), 1, f"{prefix} among {self.calls()}")
        return found[0]

    def forget_calls(self):
        if os.path.exists(self.path("calls")):
            os.unlink(self.path("calls"))

    def passes(self):
        with open(self.base + ".check", "w", encoding="utf-8"):
            pass
        self.assertTrue(wait_until(lambda: read(self.base + ".result") or state(self.pid) in ([], ["Z"])), "no verdict")
        wait_until(lambda: read(self.base + ".result"), 1)
        self.assertEqual(read(self.base + ".result"), "PASS")

    def tracer(self):
        return int(read(f"/proc/{self.pid}/status").split("TracerPid:")[1].split()[0])

    def runs_on(self, verify=True):
        """Nothing has happened to the application."""
        self.assertTrue(wait_until(lambda: state(self.pid) in (["S"], ["R"]) and not self.tracer()), state(self.pid))
        if verify:
            self.passes()

    def refused(self, *texts):
        """The dump fails for these reasons, and the application goes on."""
        self.dump(status=1)
        for text in texts:
            self.assertIn(text, self.log)
        self.assertIn("PluginFailed", self.log)
        self.runs_on()
