#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients of a message bus that is outside: libdbus, GDBus and sd-bus go on with a connection that was made for them."""
import os
import subprocess
import threading
import time

from outside import Application, Case, PYTHON, alive, read, run, wait_until

LIBDBUS = """
import dbus, dbus.service, os, sys
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib
DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
pings = 0
class X(dbus.service.Object):
    calls = 0
    @dbus.service.method("org.test.X", out_signature="u")
    def Count(self):
        self.calls += 1
        return self.calls
    @dbus.service.method("org.test.X", out_signature="u")
    def Pings(self):
        return pings
    @dbus.service.method("org.test.X", out_signature="s")
    def Ask(self):
        return bus.get_object("org.freedesktop.DBus", "/org/freedesktop/DBus").GetId()
def ping(*args):
    global pings
    pings += 1
bus.add_signal_receiver(ping, "Ping", "org.test.X")
name = dbus.service.BusName("org.test.X", bus)
x = X(bus, "/x")
open(sys.argv[1] + "/ready", "w").close()
GLib.MainLoop().run()
"""

GDBUS = """
import os, sys
from gi.repository import Gio, GLib
INTERFACE = '''<node><interface name="org.test.X"><method name="Count"><arg type="u" direction="out"/></method>
<method name="Pings"><arg type="u" direction="out"/></method><method name="Ask"><arg type="s" direction="out"/></method>
</interface></node>'''
bus = Gio.bus_get_sync(Gio.BusType.SESSION)
count = {"Count": 0, "Pings": 0}
def call(connection, sender, path, interface, method, arguments, invocation):
    if method == "Ask":
        reply = bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId", None, None,
                              0, 5000, None)
        invocation.return_value(reply)
        return
    if method == "Count":
        count["Count"] += 1
    invocation.return_value(GLib.Variant("(u)", (count[method],)))
def ping(*args):
    count["Pings"] += 1
bus.register_object("/x", Gio.DBusNodeInfo.new_for_xml(INTERFACE).interfaces[0], call, None, None)
bus.signal_subscribe(None, "org.test.X", "Ping", None, None, 0, ping)
def acquired(connection, name):
    open(sys.argv[1] + "/ready", "w").close()
Gio.bus_own_name_on_connection(bus, "org.test.X", 0, acquired, lambda *a: os._exit(3))
GLib.MainLoop().run()
"""


class Bus:
    """A message bus of the session kind."""

    def __init__(self, case, name, user=None):
        self.path = case.path(name)
        self.address = "unix:path=" + self.path
        self.case = case
        self.process = None
        self.user = user
        self.start()
        case.addCleanup(self.stop)

    def start(self):
        self.process = subprocess.Popen(["dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=" + self.address],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        user=self.user, group=self.user, extra_groups=[] if self.user else None)
        if not wait_until(lambda: os.path.exists(self.path)):
            raise AssertionError("no bus")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
        if os.path.exists(self.path):
            os.unlink(self.path)

    def ctl(self, *words):
        done = subprocess.run(["busctl", "--address=" + self.address, "--timeout=120", *words], capture_output=True,
                              text=True, check=False, user=self.user, group=self.user)
        return done.stdout.strip() if done.returncode == 0 else "failed: " + done.stderr.strip()

    def call(self, method):
        return self.ctl("call", "org.test.X", "/x", "org.test.X", method)

    def ping(self):
        self.ctl("emit", "/x", "org.test.X", "Ping")

    def owner(self):
        return self.ctl("call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetNameOwner", "s",
                        "org.test.X")


class Clients(Case):
    def client(self, bus, command, user=None):
        directory = self.path("ready-%d" % self.number)
        os.mkdir(directory)
        os.chmod(directory, 0o777)
        app = Application(self, "", user=user, program=[*command, directory],
                          environment={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "DBUS_SESSION_BUS_ADDRESS": bus.address})
        self.addCleanup(app.end)
        self.assertTrue(wait_until(lambda: os.path.exists(directory + "/ready")), "the client does not get ready")
        time.sleep(0.2)
        return app

    def goes_on(self, command, user=None):
        if user:
            os.chmod(self.temporary.name, 0o777)
        bus = Bus(self, "bus", user)
        app = self.client(bus, command, user)
        self.assertEqual(bus.call("Count"), "u 1")
        bus.ping()
        self.assertTrue(wait_until(lambda: bus.call("Pings") == "u 1"))
        owner = bus.owner()
        for life in (2, 3):
            app.dump("--external", f"unix:path={bus.path} action=dbus")
            self.assertIn("failed", bus.call("Count"))
            app.restore()
            self.assertEqual(bus.call("Count"), f"u {life}")
            bus.ping()
            self.assertTrue(wait_until(lambda: bus.call("Pings") == f"u {life}"), "it does not hear signals")
            self.assertRegex(bus.call("Ask"), 's "[0-9a-f]{32}"')
            self.assertEqual(bus.ctl("call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                     "GetConnectionUnixProcessID", "s", "org.test.X"), f"u {app.pid}")
            self.assertNotEqual(bus.owner(), owner)
            owner = bus.owner()
        return bus, app

    def test_libdbus(self):
        self.goes_on([PYTHON, "-I", "-c", LIBDBUS])

    def test_gdbus(self):
        self.goes_on([PYTHON, "-I", "-c", GDBUS])

    def test_sd_bus(self):
        self.goes_on([os.environ["BUS_CLIENT_SD"]])

    def test_another_user(self):
        """The bus of a user lets nobody else in, not even root: everything is asked and said as that user."""
        self.goes_on([PYTHON, "-I", "-c", LIBDBUS], user=65534)

    def test_closed_where_it_cannot_be_known(self):
        """Two connections of one process: nothing tells which socket is which. They see the bus go away."""
        bus = Bus(self, "bus")
        app = self.client(bus, [PYTHON, "-I", "-c", LIBDBUS.replace(
            "bus = dbus.SessionBus()", "bus = dbus.SessionBus()\nsecond = dbus.SessionBus(private=True)\n"
            "bus.set_exit_on_disconnect(False)\nsecond.set_exit_on_disconnect(False)")])
        app.dump("--external", f"unix:path={bus.path} action=dbus")
        log = self.explain_log(app)
        self.assertIn("has 2 connections to that bus", log)
        app.restore()
        time.sleep(0.5)
        self.assertTrue(alive(app.pid))
        self.assertIn("failed", bus.owner())

    def test_who_plays_a_bus_is_not_waited_for(self):
        """A server that is no bus, and drips nonsense: the dump goes on, and the connection is closed."""
        server = self.server(self.path("bus"), greeting=b"", answers=False)
        app = self.application(f"""
s = socket.socket(socket.AF_UNIX)
s.connect({server.path!r})
serve(receive=lambda: repr(s.recv(10)))
""")
        def drip():
            while not server.ends:
                for connection in server.connections[1:]:
                    try:
                        connection.send(b"x")
                    except OSError:
                        pass
                time.sleep(0.3)
        threading.Thread(target=drip, daemon=True).start()
        started = time.monotonic()
        app.dump("--external", f"unix:path={server.path} action=dbus")
        self.assertLess(time.monotonic() - started, 60)
        self.assertIn("the bus cannot be asked about it", self.explain_log(app))
        app.restore()
        self.assertEqual(app.ask("receive"), "b''")

    def test_the_bus_is_gone(self):
        bus = Bus(self, "bus")
        app = self.client(bus, [PYTHON, "-I", "-c", LIBDBUS.replace(
            "pings = 0", "pings = 0\nbus.set_exit_on_disconnect(False)", 1)])
        app.dump("--external", f"unix:path={bus.path} action=dbus")
        bus.stop()
        app.restore()
        time.sleep(0.3)
        self.assertTrue(alive(app.pid))

    def test_the_name_is_taken(self):
        bus = Bus(self, "bus")
        app = self.client(bus, [os.environ["BUS_CLIENT_SD"]])
        app.dump("--external", f"unix:path={bus.path} action=dbus")
        other = self.client(bus, [os.environ["BUS_CLIENT_SD"]])
        status, errors = app.criu("restore", "-d")
        self.assertEqual(status, 0, errors)
        self.assertIn("belongs to somebody else now", read(os.path.join(app.images, "restore.log")))
        # it finds its connection closed, and ends
        self.assertTrue(wait_until(lambda: not alive(app.pid)))
        self.assertEqual(bus.call("Count"), "u 1")
        self.assertTrue(alive(other.pid))


if __name__ == "__main__":
    run()
