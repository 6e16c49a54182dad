#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""External objects through the service and its command. Runs below tools/with-bus."""
import json
import os
import signal
import socket
import subprocess
import sys

from outside import BUILD, Case, PYTHON, alive, gone, run, wait_until

CHECKPOINT = os.path.join(BUILD, "tools", "checkpoint", "checkpoint")
NOBODY = 65534

SYSLOG = """
import logging, logging.handlers
logger = logging.getLogger()
logger.addHandler(logging.handlers.SysLogHandler(address={path!r}))
logger.setLevel(logging.INFO)
logger.info("hello")
serve(log=lambda: logger.info("still here"))
"""

INHERIT = """
import dbus, sys
manager = dbus.Interface(dbus.SystemBus().get_object("org.criu.Checkpoint", "/org/criu/Checkpoint"),
                         "org.criu.Checkpoint.Manager")
manager.Restore("inherit", dbus.Dictionary({"inherit": dbus.Dictionary({"the-server": dbus.types.UnixFd(int(sys.argv[1]))},
                                                                       signature="sh")}, signature="sv"))
"""

STREAM = """
s = socket.socket(socket.AF_UNIX)
s.connect({path!r})
s.settimeout(10)
serve(receive=lambda: repr(s.recv(100)), send=lambda: s.send(b"x"))
"""


class Service(Case):
    def checkpoint(self, *words, user=None, status=0):
        done = subprocess.run([CHECKPOINT, "--no-progress", "--no-ask-password", *words], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, user=user, group=user,
                              extra_groups=[] if user else None, timeout=300)
        self.assertEqual(done.returncode, status, f"{words}: {done.stdout} {done.stderr}")
        return done.stdout + done.stderr

    def life(self, app, name, *restore):
        """The end of the first one, and the second."""
        app.wait_for_end()
        self.checkpoint("restore", *restore, name)
        self.assertTrue(alive(app.pid))
        self.addCleanup(self.end, app.pid)

    def end(self, pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))

    def test_syslog(self):
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(SYSLOG.format(path=log.path))
        explained = self.checkpoint("explain", str(app.pid))
        self.assertIn("nothing is in the way", explained)
        self.assertIn(f"unix datagram socket (to {log.path})", explained)
        self.assertIn("reconnect, by built in", explained)
        findings = json.loads(self.checkpoint("--json", "explain", "-e", f"unix:path={log.path} action=close", str(app.pid)))
        self.assertEqual([(f["action"], f["kind"]) for f in findings], [("close", "unix")])
        self.assertIn("option external: unix:path=", findings[0]["reason"])
        self.checkpoint("dump", str(app.pid), "syslog")
        self.life(app, "syslog")
        app.ask("log")
        self.assertTrue(wait_until(lambda: len(log.got) == 2))
        self.assertEqual(log.got, [b"<14>hello\0", b"<14>still here\0"])

    def test_shipped_plugins(self):
        """They are listed, and what they do is signalled."""
        rows = {r["name"]: r for r in json.loads(self.checkpoint("--json", "plugins"))}
        for name in ("dbus", "syslog", "file-embed"):
            self.assertEqual((rows[name]["loaded"], rows[name]["door"], rows[name]["error"]), ("on-demand", "native", ""))
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        data = self.path("data")
        with open(data, "w", encoding="ascii") as f:
            f.write("here")
        app = self.application(SYSLOG.replace("serve(", "f = open({data!r})\nserve(read=f.read, ").format(path=log.path, data=data))
        rules = ["-e", f"unix:path={log.path} action=plugin:syslog", "-e", f"file:path={data} action=embed"]
        explained = self.checkpoint("explain", *rules, str(app.pid))
        self.assertIn("reconnect, by option external", explained)
        self.assertIn("embed, by option external", explained)
        told = self.checkpoint("-v", "dump", *rules, str(app.pid), "shipped")
        self.assertIn("connect by syslog", told)
        self.assertIn("reopen by file-embed", told)
        os.unlink(data)
        app.wait_for_end()
        told = self.checkpoint("-v", "restore", "shipped")
        self.addCleanup(self.end, app.pid)
        self.assertIn("connect by syslog", told)
        self.assertIn("reopen by file-embed", told)
        app.ask("log")
        self.assertTrue(wait_until(lambda: len(log.got) == 2))
        self.assertEqual(app.ask("read"), "here")

    def test_what_a_shipped_plugin_refuses(self):
        """Explain finds what a dump would."""
        server = self.server(self.path("server"), greeting=b"hello")
        app = self.application(STREAM.format(path=server.path))
        self.assertTrue(wait_until(lambda: server.connections))
        directory = ["-e", "file:path=/dev/null action=embed"] # no regular file, and ordinary otherwise
        rules = ["-e", f"unix:path={server.path} action=plugin:syslog", *directory]
        for words in (["explain", *rules, str(app.pid)], ["dump", *rules, str(app.pid), "refused"]):
            said = self.checkpoint(*words, status=7)
            self.assertIn("was not read yet", said)
            self.assertIn("plugin syslog, option external: unix:path=", said)
            self.assertIn("only regular files can be embedded", said)
        self.assertTrue(alive(app.pid))

    def test_rules(self):
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path))
        self.assertIn("outside the tree", self.checkpoint("explain", str(app.pid), status=7))
        self.assertIn("teleport", self.checkpoint("dump", "-e", "unix:action=teleport", str(app.pid), "rules", status=2))
        self.checkpoint("dump", "-e", "unix:path=/nowhere action=fail", "-e", f"unix:path={server.path} action=close",
                        str(app.pid), "rules")
        self.life(app, "rules", "-e", f"unix:path={server.path} action=reconnect")
        app.ask("send")
        self.assertEqual(app.ask("receive"), "b'X'")

    def test_ext_unix_sk(self):
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path))
        self.checkpoint("dump", "-o", "ext-unix-sk=true", str(app.pid), "classic")
        self.life(app, "classic")
        app.ask("send")
        self.assertEqual(app.ask("receive"), "b'X'")

    def test_inherit(self):
        """The caller of the bus method gives the other end."""
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path))
        self.checkpoint("dump", "-e", f"unix:path={server.path} action=inherit:the-server", str(app.pid), "inherit")
        app.wait_for_end()
        self.assertIn("the-server", self.checkpoint("restore", "inherit", status=2))
        ours, given = socket.socketpair()
        self.addCleanup(ours.close)
        subprocess.run([PYTHON, "-I", "-c", INHERIT, str(given.fileno())], check=True, pass_fds=(given.fileno(),), timeout=60)
        given.close()
        self.addCleanup(self.end, app.pid)
        ours.settimeout(10)
        app.ask("send")
        self.assertEqual(ours.recv(10), b"x")
        ours.send(b"y")
        self.assertEqual(app.ask("receive"), "b'y'")

    def test_not_for_everybody(self):
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path), user=NOBODY)
        for words in (["-e", "unix:action=close"], ["-o", "ext-unix-sk=true"]):
            self.assertIn("privileged-options", self.checkpoint("explain", *words, str(app.pid), user=NOBODY, status=4))


if __name__ == "__main__":
    sys.argv[1:] = [a for a in sys.argv[1:] if a != BUILD]
    run()
