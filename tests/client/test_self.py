# SPDX-License-Identifier: LGPL-2.1-or-later
"""Applications that checkpoint themselves."""
from client_case import *

OLD_SERVICE = """
import dbus, dbus.mainloop.glib, dbus.service, sys
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
class Old(dbus.service.Object):
    @dbus.service.method("org.freedesktop.DBus.Properties", in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return {"InterfaceVersion": dbus.UInt32(1), "Version": "0.0.9"}[name]
bus = dbus.SystemBus()
name = dbus.service.BusName("org.criu.Checkpoint", bus)
old = Old(bus, "/org/criu/Checkpoint")
open(sys.argv[1], "w").close()
GLib.MainLoop().run()
"""


class SelfDump(Client):
    def back_and_forth(self, process, name, uid=0):
        """The original has said 0; the restored one says 1."""
        self.assertEqual(self.lines(process, 1), ["0 pd "])
        self.assertTrue(is_running(process.pid))
        self.end(process.pid)
        self.assertEqual(self.works("Restore", name, {}, uid=uid), process.pid)
        self.assertEqual(self.lines(process, 2), ["0 pd ", "1 pr "])
        self.assertEqual(sorted(os.listdir(f"/proc/{process.pid}/fd")), ["0", "1", "2"], "a descriptor is left over")

    def test_original_and_restored(self):
        self.back_and_forth(self.snapshot("self"), "self")

    def test_twice_restored(self):
        process = self.snapshot("twice")
        self.back_and_forth(process, "twice")
        self.end(process.pid)
        self.works("Restore", "twice", {})
        self.assertEqual(self.lines(process, 3)[2], "1 pr ")

    def test_from_a_thread(self):
        self.back_and_forth(self.snapshot("thread", "thread"), "thread")

    def test_static_library(self):
        self.back_and_forth(self.snapshot("static", program="snapshot-static"), "static")

    def test_user(self):
        self.back_and_forth(self.snapshot("user", uid=NOBODY), "user", uid=NOBODY)

    def test_the_application_ends_with_its_checkpoint(self):
        process = self.snapshot("ends", "end")
        self.gone(process.pid)
        self.assertFalse(os.path.exists(process.out))
        self.works("Restore", "ends", {})
        self.assertEqual(self.lines(process, 1), ["1 pr "])

    def test_children_come_along(self):
        process = self.snapshot("children", "child", "/bin/sleep", uid=NOBODY)
        self.assertEqual(self.lines(process, 1), ["0 pd "])
        tree = tree_of(process.pid)
        self.assertEqual(len(tree), 2)
        self.end(process.pid)
        for p in tree:
            self.gone(p)
        self.works("Restore", "children", {}, uid=NOBODY)
        self.assertEqual(self.lines(process, 2)[1], "1 pr ")
        self.assertEqual(tree_of(process.pid), tree)

    def test_connection_of_its_own(self):
        """Without a rule it is in the way; with one the restored process finds it closed."""
        process = self.snapshot("bus", "bus", "")
        self.assertRegex(self.lines(process, 1)[0], r"^-95 pd .*unix stream socket.*outside the tree")
        address = os.environ["DBUS_SYSTEM_BUS_ADDRESS"].removeprefix("unix:path=")
        process = self.snapshot("bus", "bus", f"unix:path={address} action=close")
        self.assertEqual(self.lines(process, 1), ["0 pd "])
        self.end(process.pid)
        self.assertEqual(self.works("Restore", "bus", {}), process.pid)
        self.assertEqual(self.lines(process, 2), ["0 pd ", "1 pr "])

    def test_privileged_child_is_refused(self):
        """A child that runs as root, made by a set-user-id program: its memory was never the caller's to read."""
        sleeper = os.path.join(self.folder("bin", mode=0o755), "rootsleep")
        shutil.copy("/bin/sleep", sleeper)
        os.chmod(sleeper, 0o4755)
        process = self.snapshot("setuid", "child", sleeper, uid=NOBODY)
        line = self.lines(process, 1)[0]
        self.assertRegex(line, r"^-1 pd pid \d+ \(rootsleep\) does not run under your user id alone.*dump-any")
        self.assertEqual(self.works("ListCheckpoints", {}, uid=NOBODY), 0)
        # asking for more than polkit grants
        process = self.snapshot("setuid2", "any", "child", sleeper, uid=NOBODY)
        self.assertRegex(self.lines(process, 1)[0], r"^-\d+ pd .*dump-any")

    def test_existing_name(self):
        first = self.snapshot("name")
        self.lines(first, 1)
        second = self.snapshot("name")
        self.assertRegex(self.lines(second, 1)[0], "^-17 pd There is a checkpoint 'name' already")
        third = self.snapshot("name", "replace")
        self.back_and_forth(third, "name")

    def test_hook_refuses(self):
        process = self.snapshot("refused", "refuse")
        self.assertRegex(self.lines(process, 1)[0], "^-11 p The application's own pre-dump hook says")

    def test_options_of_another_version(self):
        process = self.snapshot("version", "size")
        self.assertRegex(self.lines(process, 1)[0],
                         r"^-22 - The options \(size \d+, version 1\) are not those of libcheckpoint [\d.]+ \(size")

    def test_no_service(self):
        process = self.start(os.path.join(BUILD, "tests/client/snapshot"), "x", os.path.join(self.dir, "x"),
                             env={"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.dir}/none"})
        process.out = os.path.join(self.dir, "x")
        self.assertRegex(self.lines(process, 1)[0], "^-2 pd Cannot connect to the system bus")

    def test_service_of_another_version(self):
        """Who is the older one is said by name."""
        mock = os.path.join(self.dir, "mock.py")
        with open(mock, "w", encoding="ascii") as f:
            f.write(OLD_SERVICE)
        bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address"],
                               stdout=subprocess.PIPE, text=True)
        self.processes.append(bus)
        self.pids.add(bus.pid)
        env = {"DBUS_SYSTEM_BUS_ADDRESS": bus.stdout.readline().strip()}
        bus.stdout.close()
        ready = os.path.join(self.dir, "ready")
        self.start("/usr/bin/python3", mock, ready, env=env)
        wait_for(lambda: os.path.exists(ready), "the old service")
        process = self.start(os.path.join(BUILD, "tests/client/snapshot"), "x", os.path.join(self.dir, "x"), env=env)
        process.out = os.path.join(self.dir, "x")
        self.assertRegex(self.lines(process, 1)[0], r"^-93 pd libcheckpoint [\d.]+ needs version 2 of the interface; the service "
                         r"\(checkpointd 0\.0\.9\) offers version 1: it is the older one")

    def test_engine_and_service_are_killed(self):
        """Whatever dies at whatever moment: the original goes on, and is told that it is not known how it went."""
        seen = set()
        for n in range(12):
            service = self.service_pid()
            process = self.snapshot(f"killed-{n}", "replace")
            wait_for(lambda p=process: self.engine_of(p.pid) or os.path.exists(p.out), "the engine", pause=0.0002)
            time.sleep(n * 0.0005)
            self.kill_all(service)
            line = self.lines(process, 1)[0]
            self.assertRegex(line, "^(0 pd |-121 pd The service went away|-[0-9]+ pd )", line)
            seen.add(line.split()[0])
            if line.startswith("0"):
                self.assertTrue(is_running(process.pid))
            with open(f"/proc/{process.pid}/stat", encoding="ascii") as f:
                self.assertNotIn(f.read().rsplit(")", 1)[1].split()[0], "tT")
        self.assertNotEqual(seen, {"0"}, "nobody was killed in the middle")

    @staticmethod
    def service_pid():
        bus = dbus.SystemBus(private=True)
        try:
            driver = bus.get_object("org.freedesktop.DBus", "/")
            driver.StartServiceByName(SERVICE, dbus.UInt32(0), dbus_interface="org.freedesktop.DBus")
            return int(driver.GetConnectionUnixProcessID(SERVICE, dbus_interface="org.freedesktop.DBus"))
        finally:
            bus.close()

    @staticmethod
    def engine_of(pid):
        """Somebody traces it."""
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as f:
                return int(re.search(r"TracerPid:\t(\d+)", f.read())[1])
        except OSError:
            return 0

    @staticmethod
    def kill_all(pid):
        for p in tree_of(pid):
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass


if __name__ == "__main__":
    unittest.main(verbosity=2)
