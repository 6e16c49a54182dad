#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unix sockets whose peer is outside the tree: connected again, closed, inherited, refused."""
import os
import socket

from outside import Case, run, wait_until

DATAGRAM = """
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect({path!r})
n = [0]
def send():
    n[0] += 1
    return s.send(b"message %d" % n[0])
serve(send=send, peer=lambda: repr(s.getpeername()))
"""

STREAM = """
s = socket.socket(socket.AF_UNIX, socket.{kind})
s.connect({path!r})
s.settimeout(10)
def talk():
    s.send(b"hello")
    return s.recv(100).decode()
def receive():
    return repr(s.recv(100))
def credentials():
    return s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
serve(talk=talk, receive=receive, peer=lambda: repr(s.getpeername()), send=lambda: s.send(b"x"))
"""


class Datagrams(Case):
    def test_syslog_like(self):
        """A datagram socket needs no rule: it goes on sending to the same address."""
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        self.assertEqual(app.ask("send"), "9")
        app.dump()
        files = app.decoded("files.img")
        self.assertIn(log.path, files)
        app.restore()
        self.assertEqual(app.ask("send"), "9")
        self.assertEqual(app.ask("peer"), repr(log.path))
        self.assertTrue(wait_until(lambda: len(log.got) == 2))
        self.assertEqual(log.got, [b"message 1", b"message 2"])

    def test_abstract(self):
        log = self.server("\0external-test-%d" % os.getpid(), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        app.ask("send")
        app.dump()
        app.restore()
        app.ask("send")
        self.assertTrue(wait_until(lambda: log.got == [b"message 1", b"message 2"]))

    def test_another_address(self):
        log, other = self.server(self.path("log"), socket.SOCK_DGRAM), self.server(self.path("other"), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        app.dump("--external", f"unix:path={log.path} action=reconnect:{other.path}")
        app.restore()
        app.ask("send")
        self.assertTrue(wait_until(lambda: other.got == [b"message 1"]))
        self.assertEqual(log.got, [])

    def test_the_address_is_gone(self):
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        app.dump()
        log.close()
        app.restore(refused=[log.path, "action=close"])
        self.server(self.path("later"), socket.SOCK_DGRAM)
        app.restore("--external", f"unix:path={log.path} action=reconnect:{self.path('later')}")
        self.assertEqual(app.ask("send"), "9")

    def test_closed(self):
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        app.dump("--external", "unix:type=dgram action=close")
        app.restore()
        self.assertEqual(app.ask("send"), "ConnectionRefusedError")
        self.assertEqual(log.got, [])

    def test_forbidden(self):
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(DATAGRAM.format(path=log.path))
        app.dump("--external", 'unix:path=** action=fail reason="not today" cure="wait until tomorrow"',
                 refused=["not today", "wait until tomorrow", "fd "])
        app.ask("send")

    def test_two_sockets_to_one_address(self):
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(f"""
a, b = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
a.connect({log.path!r})
b.connect({log.path!r})
serve(first=lambda: a.send(b"first"), second=lambda: b.send(b"second"))
""")
        app.dump("--external", f"unix:fd=4 action=close")
        app.restore()
        self.assertEqual(app.ask("first"), "5")
        self.assertEqual(app.ask("second"), "ConnectionRefusedError")

    def test_queued(self):
        """What waited in a bound socket is there again, and both directions go on."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        server.bind(self.path("server"))
        server.settimeout(10)
        client = self.path("client")
        app = self.application(f"""
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind({client!r})
s.connect({self.path("server")!r})
s.settimeout(5)
serve(receive=lambda: s.recv(100).decode(), send=lambda: s.send(b"answer"))
""")
        server.sendto(b"one", client)
        server.sendto(b"two", client)
        app.dump()
        app.restore()
        self.assertEqual([app.ask("receive"), app.ask("receive")], ["one", "two"])
        server.sendto(b"three", client)
        self.assertEqual(app.ask("receive"), "three")
        app.ask("send")
        self.assertEqual(server.recv(100), b"answer")


    def test_queued_without_an_address(self):
        """One end of a pair: what waits in it can be had again closed, but not on a new connection."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(ours.close)
        log = self.server(self.path("log"), socket.SOCK_DGRAM)
        app = self.application(f"s = socket.socket(fileno={theirs.fileno()})\ns.settimeout(5)\n"
                               "serve(receive=lambda: repr(s.recv(100)))", fds=(theirs.fileno(),))
        theirs.close()
        ours.send(b"one")
        app.dump("--external", f"unix:action=reconnect:{log.path}", refused="no address to send them to again")
        app.dump("--external", "unix:action=close")
        app.restore()
        self.assertEqual(app.ask("receive"), "b'one'")


class Connections(Case):
    def application_of(self, server, **more):
        kind = {socket.SOCK_STREAM: "SOCK_STREAM", socket.SOCK_SEQPACKET: "SOCK_SEQPACKET"}[server.kind]
        return self.application(STREAM.format(path=server.path, kind=kind), **more)

    def test_blocks_without_a_rule(self):
        server = self.server(self.path("server"))
        app = self.application_of(server)
        app.dump(refused=["outside the tree", "action=reconnect"])
        self.assertEqual(app.ask("talk"), "HELLO")

    def test_reconnect(self):
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with self.subTest(kind=kind):
                server = self.server(self.path(f"server-{int(kind)}"), kind)
                app = self.application_of(server)
                self.assertEqual(app.ask("talk"), "HELLO")
                app.dump("--external", f"unix:path={server.path} action=reconnect")
                app.restore()
                self.assertEqual(app.ask("talk"), "HELLO")
                self.assertEqual(app.ask("peer"), repr(server.path))
                self.assertEqual(server.peers, [(app.pid, 0, 0)] * 2)
                app.end()

    def test_the_server_sees_who_comes(self):
        """A user's application connects as that user and as its own process, not as the engine."""
        server = self.server(self.path("server"))
        app = self.application_of(server, user=12345)
        app.dump("--external", f"unix:path={server.path} action=reconnect")
        app.restore()
        self.assertEqual(app.ask("talk"), "HELLO")
        self.assertEqual(server.peers, [(app.pid, 12345, 12345)] * 2)

    def test_abstract_and_classic_option(self):
        server = self.server("\0external-stream-%d" % os.getpid())
        app = self.application_of(server)
        app.dump("-x")
        app.restore("-x")
        self.assertEqual(app.ask("talk"), "HELLO")

    def test_what_was_not_read(self):
        server = self.server(self.path("server"), greeting=b"welcome")
        app = self.application_of(server)
        self.assertTrue(wait_until(lambda: server.connections))
        rule = f"unix:path={server.path} action=reconnect"
        app.dump("--external", rule, refused=["7 bytes from there have not been read", "unread=drop"])
        app.dump("--external", rule + " unread=drop")
        app.restore()
        self.assertEqual(app.ask("receive"), "b'welcome'")  # the new connection's

    def test_said_first(self):
        server = self.server(self.path("server"), answers=False)
        app = self.application_of(server)
        app.dump("--external", rf'unix:path={server.path} action=reconnect send="hello from %c\n%%\x21"')
        app.restore()
        self.assertTrue(wait_until(lambda: server.got))
        self.assertEqual(server.got, [b"hello from python3\n%!"])

    def test_close(self):
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with self.subTest(kind=kind):
                server = self.server(self.path(f"server-{int(kind)}"), kind, greeting=b"last words")
                app = self.application_of(server)
                self.assertTrue(wait_until(lambda: server.connections))
                app.dump("--external", f"unix:path={server.path} action=close")
                app.restore()
                self.assertEqual(app.ask("peer"), repr(server.path))
                self.assertEqual(app.ask("receive"), "b'last words'")
                self.assertEqual(app.ask("receive"), "b''")
                self.assertEqual(app.ask("send"), "BrokenPipeError")
                self.assertEqual(len(server.peers), 1)
                app.end()

    def test_close_then_reconnect(self):
        """The restore decides otherwise than the dump did."""
        server = self.server(self.path("server"))
        app = self.application_of(server)
        app.dump("--external", "unix:action=close")
        app.restore("--external", f"unix:path={self.temporary.name}/* action=reconnect")
        self.assertEqual(app.ask("talk"), "HELLO")

    def test_by_the_peers_program(self):
        server = self.server(self.path("server"))
        app = self.application_of(server)
        app.dump("--external", "unix:peer-comm=nobody action=close", refused="outside the tree")
        app.dump("--external", f"unix:peer-comm=python* peer-uid={os.getuid()} action=close")
        app.restore()
        self.assertEqual(app.ask("receive"), "b''")

    def test_without_an_address(self):
        """One end of a pair whose other end is ours: nowhere to connect to, but it may be closed or inherited."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        fd = theirs.fileno()
        app = self.application(f"s = socket.socket(fileno={fd})\ns.settimeout(5)\n" + """
serve(receive=lambda: repr(s.recv(100)), send=lambda: s.send(b"from the application"), ino=lambda: os.fstat(s.fileno()).st_ino)
""", fds=(fd,))
        theirs.close()
        ino = app.ask("ino")
        app.dump("--external", "unix:action=reconnect", refused=["no address", "action=close"])
        app.dump("--external", f"unix[{ino}]")
        app.restore()
        self.assertEqual(app.ask("receive"), "b''")
        app.end()
        mine, given = socket.socketpair()
        self.addCleanup(mine.close)
        self.addCleanup(given.close)
        app.restore("--inherit-fd", f"fd[{given.fileno()}]:socket:[{ino}]", fds=(given.fileno(),))
        app.ask("send")
        mine.settimeout(10)
        self.assertEqual(mine.recv(100), b"from the application")

    def test_inherit_by_rule(self):
        server = self.server(self.path("server"))
        app = self.application_of(server)
        app.dump("--external", f"unix:path={server.path} action=inherit:the-database")
        app.restore(refused=["the-database", "--inherit-fd"])
        mine, given = socket.socketpair()
        self.addCleanup(mine.close)
        self.addCleanup(given.close)
        app.restore("--inherit-fd", f"fd[{given.fileno()}]:the-database", fds=(given.fileno(),))
        mine.settimeout(10)
        app.ask("send")
        self.assertEqual(mine.recv(100), b"x")

    def test_a_server_with_clients_outside(self):
        app = self.application(f"""
l = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
l.bind({self.path("listener")!r})
l.listen()
c, _ = l.accept() if os.path.exists(base + "/never") else (None, None)
def accept():
    global c
    c = l.accept()[0]
    c.settimeout(5)
    return repr(c.getsockname())
serve(accept=accept, receive=lambda: repr(c.recv(100)))
""")
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(client.close)
        client.connect(self.path("listener"))
        app.ask("accept")
        client.send(b"request")
        app.dump(refused="outside the tree")
        app.dump("--external", f"unix:local={self.path('listener')} action=close")
        app.restore()
        self.assertEqual(app.ask("receive"), "b'request'")
        self.assertEqual(app.ask("receive"), "b''")
        with self.assertRaises(ConnectionResetError):  # as from any server that dies with something unread
            client.recv(100)
        again = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(again.close)
        again.connect(self.path("listener"))
        again.send(b"again")
        self.assertEqual(app.ask("accept"), repr(self.path("listener")))
        self.assertEqual(app.ask("receive"), "b'again'")


class EveryPolicy(Case):
    """Each kind of socket under each policy, of the dump and of the restore, all in one application."""
    KINDS = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "dgram": socket.SOCK_DGRAM}
    POLICIES = ("reconnect", "elsewhere", "close", "inherit")

    def start(self):
        self.servers = {(kind, to): self.server(self.path(f"{kind}-{to}"), number)
                        for kind, number in self.KINDS.items() for to in self.POLICIES + ("other",)}
        script = ["all = {}", "def use(name):", "    all[name].send(b'hello from ' + name.encode())", "    return 'sent'"]
        for kind in self.KINDS:
            for policy in self.POLICIES:
                name = f"{kind}_{policy}"
                script += [f"all['{name}'] = socket.socket(socket.AF_UNIX, socket.SOCK_{kind.upper()})",
                           f"all['{name}'].connect({self.path(f'{kind}-{policy}')!r})"]
        uses = ", ".join(f"{kind}_{policy}=lambda: use('{kind}_{policy}')" for kind in self.KINDS for policy in self.POLICIES)
        self.app = self.application("\n".join(script) + f"\nserve({uses})")

    def rules(self, policies):
        """@policies: what becomes of the sockets that are called so."""
        found = []
        for kind in self.KINDS:
            for name, policy in policies.items():
                action = {"elsewhere": f"reconnect:{self.path(f'{kind}-other')}",
                          "inherit": f"inherit:{kind}-{name}"}.get(policy, policy)
                found += ["--external", f"unix:path={self.path(f'{kind}-{name}')} action={action}"]
        return found

    def restored(self, policies, *options):
        """Restores, and finds every socket where it is said to be."""
        mine, given = {}, []
        for kind, number in self.KINDS.items():
            for name, policy in policies.items():
                if policy != "inherit":
                    continue
                a, b = socket.socketpair(socket.AF_UNIX, number)
                self.addCleanup(a.close)
                self.addCleanup(b.close)
                a.settimeout(20)
                mine[kind, name] = a
                given.append((b, f"{kind}-{name}"))
        inherit = [x for b, key in given for x in ("--inherit-fd", f"fd[{b.fileno()}]:{key}")]
        self.app.restore(*options, *inherit, fds=[b.fileno() for b, _ in given])
        for server in self.servers.values():
            server.got.clear()
        for kind in self.KINDS:
            for name, policy in policies.items():
                with self.subTest(kind=kind, name=name, policy=policy):
                    said, words = self.app.ask(f"{kind}_{name}"), f"hello from {kind}_{name}".encode()
                    if policy == "close":
                        self.assertIn(said, ("BrokenPipeError", "ConnectionRefusedError"))
                        continue
                    self.assertEqual(said, "sent")
                    if policy == "inherit":
                        self.assertEqual(mine[kind, name].recv(100), words)
                        continue
                    server = self.servers[kind, "other" if policy == "elsewhere" else name]
                    self.assertTrue(wait_until(lambda: words in b"".join(server.got)), server.got)

    def test_at_the_dump_and_otherwise_at_the_restore(self):
        self.start()
        every = {name: name for name in self.POLICIES}
        self.app.dump(*self.rules(every))
        self.restored(every)
        self.app.end()
        other = {"reconnect": "close", "elsewhere": "inherit", "close": "reconnect", "inherit": "elsewhere"}
        self.app.restore("--external", 'unix:type=stream action=fail reason="not again"', refused="not again")
        self.restored(other, *self.rules(other))

    def test_fail_by_whom(self):
        """A peer's address, program, user and process, the kind of socket, and the socket itself; each condition can also fail to hold."""
        self.start()
        paths = [self.path(f"{kind}-{policy}") for kind in self.KINDS for policy in self.POLICIES]
        never = ("peer-pid=1", "peer-comm=nobody", f"peer-uid={os.getuid() + 1}", "fd=999", "ino=1", f"path={paths[0]}x", "local=/x")
        sometimes = (f"path={paths[0]}", f"path={self.path('str*-elsewher?')}", f"peer-pid={os.getpid()} path={paths[2]}",
                     f"peer-comm=python* path={paths[3]}", f"peer-uid={os.getuid()} path={paths[4]}", f"type=seqpacket path={paths[5]}",
                     f"comm=python* path={paths[6]}")
        rules = [x for c in never for x in ("--external", f'unix:{c} action=fail reason="that never holds"')]
        rules += [x for i, c in enumerate(sometimes) for x in ("--external", f'unix:{c} action=fail reason="because of {i}"')]
        rules += ["--external", 'unix:type=dgram action=fail reason="it is a datagram socket"', "--external", "unix:action=close"]
        errors = self.app.dump(*rules, refused="because of 0")
        self.assertNotIn("that never holds", errors)
        for i in range(len(sometimes)):
            self.assertEqual(errors.count(f"because of {i}"), 1)
        self.assertEqual(errors.count("it is a datagram socket"), len(self.POLICIES))


class Pipes(Case):
    def pipes(self):
        """An application between two pipes of ours: (app, our writer, our reader)."""
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        app = self.application(f"""
serve(read=lambda: repr(os.read({their_in}, 100)), write=lambda: os.write({their_out}, b"written"),
      inodes=lambda: "%d %d" % (os.fstat({their_in}).st_ino, os.fstat({their_out}).st_ino))
""", fds=(their_in, their_out))
        for fd in (their_in, their_out):
            os.close(fd)
        for fd in (our_out, our_in):
            self.addCleanup(os.close, fd)
        return app, our_out, our_in

    def test_blocks_without_a_rule(self):
        app, _, _ = self.pipes()
        app.dump(refused=["its write end is held by", "its read end is held by", "pipe:action=close"])

    def test_close(self):
        app, ours, _ = self.pipes()
        os.write(ours, b"last words")
        app.dump("--external", "pipe:peer-comm=python3* action=close", "--external", "pipe:action=fail")
        app.restore()
        self.assertEqual(app.ask("read"), "b'last words'")
        self.assertEqual(app.ask("read"), "b''")
        self.assertEqual(app.ask("write"), "BrokenPipeError")

    def test_inherit(self):
        app, ours, _ = self.pipes()
        inodes = app.ask("inodes").split()
        app.dump("--external", "pipe:action=inherit")
        app.restore(refused="--inherit-fd")
        reader, our_writer = os.pipe()
        our_reader, writer = os.pipe()
        for fd in (reader, our_writer, our_reader, writer):
            self.addCleanup(os.close, fd)
        app.restore("--inherit-fd", f"fd[{writer}]:pipe:[{inodes[0]}]", "--inherit-fd", f"fd[{reader}]:pipe:[{inodes[1]}]",
                    fds=(reader, writer), refused="cannot be read")
        app.restore("--inherit-fd", f"fd[{reader}]:pipe:[{inodes[0]}]", "--inherit-fd", f"fd[{writer}]:pipe:[{inodes[1]}]",
                    fds=(reader, writer))
        os.write(our_writer, b"hello")
        self.assertEqual(app.ask("read"), "b'hello'")
        app.ask("write")
        self.assertEqual(os.read(our_reader, 100), b"written")


class Fifos(Case):
    def fifos(self):
        """An application that reads one FIFO and writes to another; we have the other ends."""
        for name in ("in", "out"):
            os.mkfifo(self.path(name))
        app = self.application(f"""
i = os.open({self.path("in")!r}, os.O_RDONLY | os.O_NONBLOCK)
o = os.open({self.path("out")!r}, os.O_RDWR | os.O_NONBLOCK)
w = os.open({self.path("out")!r}, os.O_WRONLY | os.O_NONBLOCK)
os.close(o)
serve(read=lambda: repr(os.read(i, 100)), write=lambda: os.write(w, b"written"))
""")
        ours = os.open(self.path("in"), os.O_WRONLY), os.open(self.path("out"), os.O_RDONLY | os.O_NONBLOCK)
        for fd in ours:
            self.addCleanup(os.close, fd)
        return app, *ours

    def test_outside(self):
        app, writer, reader = self.fifos()
        os.write(writer, b"before")
        app.dump(refused=["its write end is held by", "its read end is held by", "pipe:action=close"])
        app.dump("--external", "pipe:action=close")
        app.restore()
        self.assertEqual(app.ask("read"), "b'before'")  # once, though it was in the FIFO, too
        os.write(writer, b"after")
        self.assertEqual(app.ask("read"), "b'after'")
        app.ask("write")
        self.assertEqual(os.read(reader, 100), b"written")


class RuleFiles(Case):
    def test_machine_rules(self):
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path, kind="SOCK_STREAM"))
        self.rules(first=f"# closes all\n\nunix:path={server.path} \\\n  action=close\n", second="unix:action=fail\n")
        app.dump()
        app.restore()
        self.assertEqual(app.ask("receive"), "b''")

    def test_options_win(self):
        server = self.server(self.path("server"))
        app = self.application(STREAM.format(path=server.path, kind="SOCK_STREAM"))
        self.rules(first="unix:action=fail\n")
        app.dump(refused="first.conf line 1")
        app.dump("-x")
        app.restore()
        self.assertEqual(app.ask("talk"), "HELLO")

    def test_mistakes_are_named(self):
        app = self.application("serve()")
        self.rules(broken="unix:path=/x action=close\nunix:path=/y action=teleport\n")
        app.dump(refused=["broken.conf line 2", "action=teleport"])
        directory = self.rules(open="unix:action=close\n")
        os.chmod(os.path.join(directory, "open.conf"), 0o666)
        app.dump(refused=["open.conf", "others than root"])
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = "/nowhere"
        app.dump("--external", "unix:colour=red action=close", refused=['"colour"', "nothing that a rule about unix"])


if __name__ == "__main__":
    run()
