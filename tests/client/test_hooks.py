# SPDX-License-Identifier: LGPL-2.1-or-later
"""Applications that are asked before they are checkpointed."""
from client_case import *

class Hooks(Client):
    def hooked(self, mode, *arguments, uid=0, shell=""):
        out = os.path.join(self.folder(f"out{len(self.processes)}", uid), "lines")
        command = [os.path.join(BUILD, "tests/client/hooked"), out, mode, *arguments]
        process = self.start(*(["/bin/sh", "-c", f"{shell} \"$@\"; true", "sh"] if shell else []), *command, uid=uid)
        process.out = out
        self.assertEqual(self.lines(process, 1), ["registered"])
        return process

    def dump(self, process, name, uid=0, **options):
        self.names.append((uid, name))
        return self.works("Dump", dbus_u(process.pid), name, {"replace": True, **options}, uid=uid)

    def rounds(self, process, uid=0):
        """Somebody else's dumps, twice, then one that ends it, and back: registered again each time."""
        expected = ["registered"]
        for _ in range(2):
            self.dump(process, "hooked", uid, **{"leave-running": True})
            expected += ["pre-dump", "post-dump"]
            self.assertEqual(self.lines(process, len(expected)), expected)
            self.settle(process)
        self.dump(process, "hooked", uid)
        self.gone(process.pid)
        self.works("Restore", "hooked", {}, uid=uid)
        expected += ["pre-dump", "post-restore"]
        self.assertEqual(self.lines(process, len(expected)), expected)
        self.settle(process)
        self.dump(process, "hooked", uid, **{"leave-running": True})
        expected += ["pre-dump", "post-dump"]
        self.assertEqual(self.lines(process, len(expected)), expected)

    def settle(self, process):
        """Until it has registered again: then its connection is the only descriptor with a live peer."""
        def connected():
            found = subprocess.run(["ss", "-xpH"], capture_output=True, text=True, check=True).stdout
            mine = [line.split() for line in found.splitlines() if f"pid={process.pid}," in line and "u_seq" in line]
            return any(fields[-2] != "0" for fields in mine)
        wait_for(connected, "it is registered again")
        time.sleep(0.05)

    def test_thread(self):
        self.rounds(self.hooked("thread"))

    def test_one_dump_right_after_the_other(self):
        """The application registers again after each; the next one waits for that."""
        process = self.hooked("thread", uid=NOBODY)
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)
        options = dbus.Dictionary({"replace": True, "leave-running": True}, signature="sv")
        self.names.append((0, "quick"))
        for _ in range(20):
            manager.Dump(dbus.UInt32(process.pid), "quick", options)
        bus.close()
        self.assertEqual(self.lines(process, 41), ["registered"] + ["pre-dump", "post-dump"] * 20)

    def test_loop_of_a_user(self):
        self.rounds(self.hooked("poll", uid=NOBODY), NOBODY)

    def test_administrators_dump_of_a_users_application(self):
        process = self.hooked("thread", uid=NOBODY)
        self.dump(process, "admin", **{"leave-running": True})
        self.assertEqual(self.lines(process, 3), ["registered", "pre-dump", "post-dump"])

    def test_registered_child(self):
        process = self.hooked("thread", shell="exec 9<&-;")
        self.assertEqual(len(tree_of(process.pid)), 2)
        self.dump(process, "child", **{"leave-running": True})
        self.assertEqual(self.lines(process, 3), ["registered", "pre-dump", "post-dump"])

    def test_explain_finds_nothing_in_the_way(self):
        """and the application hears nothing of it."""
        process = self.hooked("thread")
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)
        for _ in range(2):
            self.assertEqual(list(manager.Explain(dbus.UInt32(process.pid), dbus.Dictionary(signature="sv"))), [])
            self.settle(process)
        self.assertEqual(self.lines(process, 1), ["registered"])
        self.dump(process, "explained")
        bus.close()

    def test_too_many(self):
        code = ("import dbus, socket\nbus = dbus.SystemBus()\nm = dbus.Interface(bus.get_object('org.criu.Checkpoint', "
                "'/org/criu/Checkpoint'), 'org.criu.Checkpoint.Manager')\nkeep = []\n"
                "for i in range(65):\n    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n    keep.append(a)\n"
                "    m.RegisterApplication(dbus.types.UnixFd(b), dbus.Dictionary(signature='sv'))\n    b.close()\n")
        done = subprocess.run(["/usr/bin/python3", "-c", code], preexec_fn=self.become(NOBODY), capture_output=True, text=True,
                              timeout=300, check=False)
        self.assertIn("LimitsExceeded: Too many applications of uid 65534", done.stderr)
        self.hooked("thread", uid=NOBODY)  # they are forgotten with their process

    def test_refusal(self):
        process = self.hooked("refuse")
        says = rf"pid {process.pid} \(hooked\) refuses to be checkpointed now: its pre-dump hook says: .*busy"
        self.refused(E + "Failed", says, "Dump", dbus_u(process.pid), "no", {})
        self.assertEqual(self.lines(process, 3), ["registered", "pre-dump", "post-dump"])
        self.settle(process)
        self.dump(process, "yes", hooks="skip")
        self.gone(process.pid)

    def test_no_answer(self):
        process = self.hooked("hang")
        self.refused(E + "TimedOut", "was not ready for one within 300 ms.*hooks=try", "Dump", dbus_u(process.pid), "no",
                     {"hooks-timeout": dbus_t(300000)})
        process = self.hooked("hang")
        self.dump(process, "try", hooks="try", **{"hooks-timeout": dbus_t(300000)})
        self.gone(process.pid)

    def test_own_dump_does_not_ask_itself(self):
        process = self.hooked("self", "myself")
        self.names.append((0, "myself"))
        lines = self.lines(process, 2)
        self.assertEqual(lines, ["registered", "original"])
        self.end(process.pid)
        self.works("Restore", "myself", {})
        self.assertEqual(sorted(self.lines(process, 4)[2:]), ["post-restore", "restored"])

    def test_cancel_while_they_are_asked(self):
        process = self.hooked("hang")
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)
        replies = []
        thread = threading.Thread(target=lambda: replies.append(self.ask("Dump", dbus_u(process.pid), "cancelled", {})))
        thread.start()
        wait_for(lambda: len(self.lines(process, 1)) > 1, "the question")
        for path, _ in manager.ListJobs(dbus.Dictionary(signature="sv")):
            dbus.Interface(bus.get_object(SERVICE, path), JOB).Cancel(dbus.Dictionary(signature="sv"))
        thread.join()
        self.assertEqual(replies[0]["error"], E + "Cancelled", replies)
        self.assertTrue(is_running(process.pid))
        bus.close()

    def test_what_is_no_connection(self):
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)
        for wrong in (os.open("/dev/null", os.O_RDONLY), socket.socket().detach()):
            with self.assertRaises(dbus.DBusException) as caught:
                manager.RegisterApplication(dbus.types.UnixFd(wrong), dbus.Dictionary(signature="sv"))
            self.assertIn("seqpacket", caught.exception.get_dbus_message())
            os.close(wrong)
        bus.close()

    def test_restarted_service_is_found_again(self):
        process = self.hooked("thread")
        bus = dbus.SystemBus(private=True)
        driver = dbus.Interface(bus.get_object("org.freedesktop.DBus", "/"), "org.freedesktop.DBus")
        pid = driver.GetConnectionUnixProcessID(SERVICE)
        os.kill(int(pid), signal.SIGTERM)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the service ends")
        self.settle(process)
        self.dump(process, "again", **{"leave-running": True})
        self.assertEqual(self.lines(process, 3), ["registered", "pre-dump", "post-dump"])
        bus.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
