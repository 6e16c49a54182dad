# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of TCP connections share: trees under test, dumps and restores by the drop-in, and peers."""
import ast
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.path.realpath(sys.executable)
ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 2, 4, 5, 7, 8, 9, 11


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""


def wait_until(test, seconds=120.0):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def isolate():
    """A network and process ids of our own: ports, tables and ids that a restore needs are nobody else's. The script
    runs anew, as what the reaper takes care of."""
    if os.environ.get("TCP_ISOLATED"):
        return
    reaper = os.path.join(HERE, "..", "..", "tools", "lib", "reaper.py")
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
               'ip link set lo up && exec "$@"', "sh", PYTHON, reaper, PYTHON, *sys.argv]
    os.environ["TCP_ISOLATED"] = "1"
    os.execvp(command[0], command)


def tcp_state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


def tables():
    """The tables of the network lock that exist now."""
    out = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in out.splitlines() if "checkpointd-" in line]


def pattern(n, seed=1):
    """@n bytes that do not repeat."""
    out = b"".join(hashlib.sha256(struct.pack("<QQ", seed, i)).digest() for i in range(n // 32 + 1))
    return out[:n]


def fill(sock, seed=1):
    """Writes until nothing more goes; returns what was written."""
    sock.setblocking(False)
    data, sent = pattern(64 << 20, seed), 0
    quiet = 0
    while quiet < 20:
        try:
            sent += sock.send(data[sent:sent + 65536])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    sock.setblocking(True)
    return data[:sent]


def drain(sock, seconds=20):
    """Everything until the end of the stream; an error of the connection is the caller's."""
    sock.settimeout(seconds)
    parts = []
    while True:
        part = sock.recv(1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


class Node:
    """One process in the tree, which runs pieces of Python."""

    PRELUDE = "import os, socket, struct, sys, time\nsys.path.insert(0, {0!r})\nfrom harness import *\n"

    def __init__(self, test, name="node", within=()):
        self.test = test
        self.dir = os.path.join(test.dir, name)
        os.mkdir(self.dir)
        self.number = 0
        self.child = subprocess.Popen([*within, PYTHON, os.path.join(HERE, "node"), self.dir], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                                      cwd="/")
        if not wait_until(lambda: read(os.path.join(self.dir, "pid"))):
            raise AssertionError("the node does not start")
        self.pid = int(read(os.path.join(self.dir, "pid")))
        self.run(self.PRELUDE.format(HERE))

    def begin(self, text):
        path = os.path.join(self.dir, f"{self.number}.do")
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def end(self, seconds=30):
        path = os.path.join(self.dir, f"{self.number}.done")
        if not wait_until(lambda: os.path.exists(path), seconds):
            raise AssertionError(f"no answer of the node within {seconds} s to: {read(path[:-5] + '.do')}")
        self.number += 1
        answer = read(path)
        if answer.startswith("!"):
            raise AssertionError(answer[1:])
        return ast.literal_eval(answer)

    def run(self, text, seconds=30):
        self.begin(text)
        return self.end(seconds)

    def get(self, expression):
        return self.run(f"result = {expression}")

    def kill(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass
        self.child.wait()
        wait_until(lambda: not os.path.exists(f"/proc/{self.pid}") or "Z" in read(f"/proc/{self.pid}/stat").split()[2:3], 5)


class Echo:
    """A peer outside: a stream of random bytes through an echo, every byte of which is checked."""

    def __init__(self, sock):
        self.sock = sock
        self.stopped = False
        self.sent, self.got = hashlib.sha256(), hashlib.sha256()
        self.n_sent = self.n_got = 0
        self.failure = None
        self.threads = [threading.Thread(target=self.guarded, args=(f,), daemon=True) for f in (self.send, self.receive)]
        for t in self.threads:
            t.start()

    def guarded(self, work):
        try:
            work()
        except OSError as e:
            self.failure = e

    def send(self):
        n = 0
        while not self.stopped:
            block = os.urandom(1000 + n * 7919 % 30000)
            n += 1
            self.sock.sendall(block)
            self.sent.update(block)
            self.n_sent += len(block)
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self):
        while block := self.sock.recv(1 << 16):
            self.got.update(block)
            self.n_got += len(block)

    def goes_on(self, seconds=20):
        before = self.n_got
        return wait_until(lambda: self.n_got > before + 100000 or self.failure, seconds) and not self.failure

    def finish(self, seconds=60):
        self.stopped = True
        for t in self.threads:
            t.join(seconds)
        return not self.failure and self.n_sent == self.n_got and self.sent.digest() == self.got.digest()


class TcpTest(unittest.TestCase):
    CRIU = None
    PREFIX = ()  # of every dump and restore

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tcp.")
        self.nodes = []
        self.closing = []
        self.rounds = 0

    def tearDown(self):
        for node in self.nodes:
            node.kill()
        for thing in self.closing:
            thing()
        if os.environ.get("TCP_ISOLATED"):
            for table in tables():
                subprocess.run(["nft", "delete", "table", "inet", table], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def node(self, name="node", within=()):
        self.nodes.append(Node(self, name, within))
        return self.nodes[-1]

    def sock(self, family=socket.AF_INET):
        s = socket.socket(family)
        self.closing.append(s.close)
        return s

    def criu(self, action, *args):
        command = [*self.PREFIX, self.CRIU, action, "-D", os.path.join(self.dir, "images"), "-v4", "-o", f"{action}.log",
                   *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", check=False)

    def log(self, action):
        return read(os.path.join(self.dir, "images", f"{action}.log"))

    def dump(self, node, *args, established=True, fails=False):
        images = os.path.join(self.dir, "images")
        shutil.rmtree(images, ignore_errors=True)
        os.mkdir(images)
        before = set(tables())
        done = self.criu("dump", "-t", str(node.pid), *(["--tcp-established"] if established else []), *args)
        self.assertEqual(done.returncode != 0, fails, done.stderr + self.log("dump"))
        self.lock = sorted(set(tables()) - before)
        if not fails and "-R" not in args:
            node.child.wait()
        return done

    def restore(self, *args, established=True, fails=False):
        self.rounds += 1
        done = self.criu("restore", "-d", *(["--tcp-established"] if established else []), *args)
        self.assertEqual(done.returncode != 0, fails, done.stderr + self.log("restore"))
        return done

    def cycle(self, node, pause=0.0):
        self.dump(node)
        time.sleep(pause)
        self.restore()

    def pair(self, node, address="127.0.0.1", mapped=False):
        """A connection from here to the node, which knows it as `s` (and its listener as `l`)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if mapped:
            node.run("l = socket.socket(socket.AF_INET6); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                     "l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)\n"
                     "l.bind(('::', 0)); l.listen(5)")
        else:
            node.run(f"l = socket.socket({int(family)}); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                     f"l.bind(({address!r}, 0)); l.listen(5)")
        peer = self.sock(family)
        peer.connect((address, node.get("l.getsockname()[1]")))
        node.run("s = l.accept()[0]")
        return peer
