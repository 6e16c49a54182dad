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

    def explained(self, pid, *rules):
        """{object, from its end on: "ACTION by RULE", or "in the way"}."""
        done = subprocess.run([CHECKPOINT, "--no-progress", "--json", "explain", *rules, str(pid)], capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 7), done.stderr)
        return {f["object"].split(") ", 1)[-1]: f"{f['action']} by {f['reason']}" if f.get("action") else "in the way" for f in json.loads(done.stdout)}

    def test_explain_says_which_policy_and_why(self):
        """Of each kind of external object: what would become of it, and by which rule."""
        server, log = self.server(self.path("server")), self.server(self.path("log"), socket.SOCK_DGRAM)
        data, device = self.path("data"), self.path("device")
        with open(data, "w", encoding="ascii") as f:
            f.write("here")
        os.mknod(device, 0o600 | 0o020000, os.makedev(10, 200))
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        app = self.application(f"""
first, second, third = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
first.connect({server.path!r})
second.connect({server.path!r})
third.connect({log.path!r})
f, d = open({data!r}), os.open({device!r}, os.O_RDWR)
serve(fds=lambda: "%d %d %d %d %d" % (first.fileno(), second.fileno(), third.fileno(), f.fileno(), d))
""", fds=(reader,))
        os.close(reader)
        fds = app.ask("fds").split()
        plain = self.explained(app.pid)
        self.assertEqual([v for k, v in plain.items() if not k.endswith("log)")], ["in the way"] * 4, plain)
        rules = [f"unix:fd={fds[0]} action=reconnect", f"unix:peer-comm=python* fd={fds[1]} action=inherit:key", f"file:path={data} action=embed",
                 "device:rdev=10:200 action=reopen", "pipe:action=close"]
        told = self.explained(app.pid, *[x for r in rules for x in ("-e", r)])
        by = "option external: "
        names = {n.split(":")[0]: v for n, v in told.items()}
        self.assertEqual(names, {f"fd {fds[0]}": f"reconnect by {by}{rules[0]}", f"fd {fds[1]}": f"inherit:key by {by}{rules[1]}",
                                 f"fd {fds[2]}": "reconnect by built in: datagram sockets are connected to their address again",
                                 f"fd {fds[3]}": f"embed by {by}{rules[2]}", f"fd {fds[4]}": f"reopen by {by}{rules[3]}",
                                 f"fd {reader}": f"close by {by}{rules[4]}"})

    def test_explain_says_it_of_mounts_and_networks(self):
        a, b, ready = self.path("a"), self.path("b"), self.path("ready")
        for path in (a, b):
            os.mkdir(path)
        script = f"mount --bind {a} {b} && ip link add vx0 type vxlan id 5 dstport 4789 remote 10.0.0.1 && touch {ready}; exec sleep 1000"
        child = subprocess.Popen(["unshare", "-m", "-n", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, start_new_session=True, cwd="/")
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertTrue(wait_until(lambda: os.path.exists(ready)))
        told = self.explained(child.pid)
        self.assertEqual([v for v in told.values() if "mounted from outside again by built in" in v], list(told.values())[1:])
        self.assertEqual(list(told.values())[0], "in the way")
        told = self.explained(child.pid, "-e", f"mnt[{b}]:other", "-e", "netdev[vx0]")
        self.assertEqual(sorted(told.values()), ["brought at the restore by option external: netdev[vx0]",
                                                 f"given at the restore by option external: mnt[{b}]:other"])
        net = os.stat(f"/proc/{child.pid}/ns/net").st_ino
        told = self.explained(child.pid, "-e", f"net[{net}]:key")
        self.assertIn(f"given at the restore by option external: net[{net}]:key", told.values())

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
