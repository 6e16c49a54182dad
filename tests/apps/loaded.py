# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of applications under load share: trees, the clients that load them, dumps and restores by the drop-in.

Everything runs in namespaces of its own (network, process ids, System V IPC), so ports and ids are nobody else's, and
whatever is left at the end of a test can be found, and is a failure."""
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.join(HERE, "..", "..")
PYTHON = os.path.realpath(sys.executable)
ROUNDS = int(os.environ.get("ROUNDS", "1"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""


def wait_until(test, seconds=120.0):
    """Only what is broken takes so long, on a busy machine too."""
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def isolate():
    """Namespaces of our own; the script runs anew, as what the reaper takes care of."""
    if os.environ.get("APPS_ISOLATED"):
        return
    reaper = os.path.join(TOP, "tools", "lib", "reaper.py")
    command = ["unshare", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
               'ip link set lo up && exec "$@"', "sh", PYTHON, reaper, PYTHON, *sys.argv]
    os.environ["APPS_ISOLATED"] = "1"
    os.execvp(command[0], command)


def find(program):
    """Where a program is: Debian keeps some servers in directories of their own."""
    for place in (PATH, "/usr/lib/postgresql/15/bin", "/usr/libexec", "/usr/games"):
        found = shutil.which(program, path=place)
        if found:
            return found
    return None


def needs(*programs):
    missing = [p for p in programs if not find(p)]
    return unittest.skipIf(missing, f"not installed: {' '.join(missing)}")


def state_of(pid):
    fields = read(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()
    return fields[0] if fields else ""


def running(pid):
    return state_of(pid) not in ("", "Z", "X")


def descendants(root):
    found = [root]
    for pid in found:
        try:
            for tid in os.listdir(f"/proc/{pid}/task"):
                found += [int(x) for x in read(f"/proc/{pid}/task/{tid}/children").split()]
        except OSError:
            pass
    return found


def others():
    """All processes of this namespace but those that run the test."""
    ours = {1, os.getpid(), os.getppid()}
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in ours]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def all_accepted(port, connections):
    """Whether so many clients are connected to a port of this namespace, and none of them is one that nobody has accepted: these a
    dump leaves out (/proc/net/tcp: the receive queue of a listener is how many wait)."""
    waiting, established = 1, 0
    for fields in (line.split() for line in read("/proc/net/tcp").splitlines()[1:]):
        if int(fields[1].split(":")[1], 16) != port:
            continue
        if fields[3] == "0A":
            waiting = int(fields[4].split(":")[1], 16)
        established += fields[3] == "01"
    return waiting == 0 and established >= connections


class Client:
    """A program that is not dumped, and loads one that is."""

    def __init__(self, test, command, user=None):
        self.test = test
        self.name = os.path.basename(command[0])
        self.log = test.path(f"client-{len(test.clients)}")
        with open(self.log, "wb") as out:
            self.child = subprocess.Popen(test.as_user(user, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True, cwd=test.dir, env=test.env())
        test.clients.append(self)

    def output(self):
        return read(self.log)

    def connected(self, port, connections):
        """Waits until the first dump finds all of the connections, or its work is done."""
        self.test.assertTrue(wait_until(lambda: all_accepted(port, connections) or self.child.poll() is not None), self.output())

    def must_run(self):
        self.test.assertIsNone(self.child.poll(), f"{self.name} ended: {self.output()[-2000:]}")

    def end(self, seconds=300):
        """Waits for its end; it must be content with what it saw. Returns its output."""
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.test.fail(f"{self.name} does not end: {self.output()[-2000:]}")
        self.test.assertEqual(status, 0, self.output()[-2000:])
        return self.output()

    def stop(self, number=signal.SIGTERM):
        self.child.send_signal(number)
        return self.end()


class Load(unittest.TestCase):
    CRIU = ""
    options = ()  # of the dump and of the restore
    # Refusals that pass: the next moment the program holds no such thing.
    passing = r"files of /proc that belong to a process|try again( in a moment)?[,)]"

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="load.")
        os.chmod(self.dir, 0o755)
        self.clients = []
        self.child = None
        self.root = 0
        self.number = 0
        self.times = []
        self.refused = 0
        self.random = random.Random(int(os.environ.get("SEED", "1")))

    def tearDown(self):
        for _ in range(100):
            left = others()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            for child in [self.child] + [c.child for c in self.clients]:
                if child:
                    child.poll()
            if not left:
                break
            time.sleep(0.02)
        if self.times:
            refused = f", refused for a moment {self.refused} times" if self.refused else ""
            print(f"[{len(self.times)} times, the slowest {max(self.times):.2f} s{refused}] ", end="", file=sys.stderr, flush=True)
        if os.environ.get("KEEP") and self._outcome and not self._outcome.success:
            print(f"kept {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        self.assertNotIn("checkpointd", tables, "a network lock is left")

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text, mode=0o644):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def env(self):
        return {"PATH": PATH, "HOME": self.dir, "LC_ALL": "C.UTF-8", "TERM": "xterm", "TMPDIR": self.dir}

    @staticmethod
    def as_user(user, command):
        command = [find(command[0]) or command[0], *command[1:]]
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command] if user else command

    def run_tool(self, *command, user=None, stdin="", seconds=120):
        """Runs a program to its end; returns its output."""
        done = subprocess.run(self.as_user(user, command), input=stdin, capture_output=True, text=True, timeout=seconds,
                              check=False, cwd=self.dir, env=self.env())
        self.assertEqual(done.returncode, 0, f"{command[0]}: {done.stdout[-1000:]} {done.stderr[-2000:]}")
        return done.stdout

    def tree(self, *command, user=None, env=None):
        """Starts what is going to be dumped, in a session of its own."""
        with open(self.path("output"), "ab") as out:
            self.child = subprocess.Popen(self.as_user(user, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True, cwd=self.dir, env=self.env() | (env or {}))
        self.root = self.child.pid
        return self.root

    def serve(self, port, *command, user=None, env=None):
        self.tree(*command, user=user, env=env)
        self.assertTrue(wait_until(lambda: answers(port) or not self.alive()), self.output())
        self.assertTrue(self.alive(), self.output())

    def client(self, *command, user=None):
        command = (find(command[0]) or command[0],) + command[1:]
        return Client(self, list(command), user)

    def output(self):
        return read(self.path("output"))[-3000:]

    def alive(self):
        if self.child:
            self.child.poll()
        return running(self.root)

    # --- dump and restore ---

    def criu(self, action, images, *options):
        started = time.monotonic()
        done = subprocess.run([self.CRIU, action, "--no-default-config", "-D", images, *self.options, *options],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        self.times.append(time.monotonic() - started)
        return done.returncode, f"{action} {self.number}: {done.stderr[-4000:]}"

    def dump(self, *options):
        self.number += 1
        images = self.path(f"images-{self.number}")
        os.mkdir(images)
        for _ in range(100):
            status, errors = self.criu("dump", images, "-t", str(self.root), *options)
            if not status or not all(re.search(self.passing, x) for x in errors.split("; ")):
                break
            self.refused += 1
            time.sleep(0.02 * self.random.random())
        self.assertEqual(status, 0, errors)
        return images

    def restore(self, images):
        status, errors = self.criu("restore", images, "-d", "--pidfile", "pid")
        self.assertEqual(status, 0, errors)

    def gone(self, pids):
        if self.child:
            self.child.poll()
        return not [p for p in pids if os.path.exists(f"/proc/{p}")]

    def once(self):
        """Dumped, gone, restored."""
        self.assertTrue(self.alive(), f"it ended before dump {self.number + 1}: {self.output()}")
        images = self.dump()
        self.assertTrue(wait_until(lambda: self.gone([self.root])), "it is not gone")
        self.restore(images)
        self.assertEqual(read(os.path.join(images, "pid")), str(self.root))
        shutil.rmtree(images)

    def once_running(self):
        """Dumped, and it runs on."""
        shutil.rmtree(self.dump("--leave-running"))
        for pid in descendants(self.root):
            tracer = [x for x in read(f"/proc/{pid}/status").splitlines() if x.startswith("TracerPid") and x[-2:] != "\t0"]
            self.assertEqual(tracer, [], f"pid {pid} is traced")

    def rounds(self, check=lambda: None, pause=0.4):
        """As often as it was asked for: work, dump, restore. Each third time it runs on after the dump."""
        for i in range(ROUNDS):
            time.sleep(pause * (0.5 + self.random.random()))
            if i % 3 == 2:
                self.once_running()
            else:
                self.once()
            time.sleep(0.05)
            self.assertTrue(self.alive(), f"it died after round {i + 1}: {self.output()}")
            for c in self.clients:
                if not c.child.returncode == 0:
                    c.child.poll()
                    self.assertIn(c.child.returncode, (None, 0), f"{c.name} in round {i + 1}: {c.output()[-2000:]}")
            check()
