# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images in directories of callers."""
from client_case import *

class Directories(Client):
    def sleeper(self, uid=0, program="/bin/sleep"):
        process = self.start(program, "1000", uid=uid)
        wait_for(lambda: os.path.exists(f"/proc/{process.pid}/exe") and
                 "sleep" in os.readlink(f"/proc/{process.pid}/exe"), "sleep")
        return process

    def check_owner(self, folder, uid):
        names = os.listdir(folder)
        self.assertIn("inventory.img", names)
        for name in names:
            st = os.lstat(os.path.join(folder, name))
            self.assertEqual((st.st_uid, st.st_gid, st.st_mode & 0o7777), (uid, uid, 0o600), name)

    def test_dump_to_and_restore_from(self):
        for uid in (0, NOBODY):
            process, folder = self.sleeper(uid), self.folder(f"images{uid}", uid)
            self.works("DumpTo", ["pid", process.pid], ["dir", folder], {}, uid=uid)
            self.gone(process.pid)
            self.check_owner(folder, uid)
            self.assertEqual(self.works("RestoreFrom", ["dir", folder], {}, uid=uid), process.pid)
            self.assertTrue(is_running(process.pid))

    def test_self_dump_to_directory(self):
        for uid in (0, NOBODY):
            folder = self.folder(f"images{uid}", uid)
            process = self.snapshot("@" + folder, uid=uid)
            self.assertEqual(self.lines(process, 1), ["0 pd "])
            self.check_owner(folder, uid)
            self.end(process.pid)
            self.assertEqual(self.works("RestoreFrom", ["dir", folder], {}, uid=uid), process.pid)
            self.assertEqual(self.lines(process, 2), ["0 pd ", "1 pr "])
            self.assertEqual(sorted(os.listdir(f"/proc/{process.pid}/fd")), ["0", "1", "2", "3"])

    def test_command(self):
        """checkpoint dump -D, and back."""
        process, folder = self.sleeper(NOBODY), os.path.join(self.folder("home", NOBODY), "images")
        threading.Thread(target=process.wait).start()
        for arguments, says in ((("dump", str(process.pid), "-D", folder), f"dumped process {process.pid} as {folder}"),
                                (("restore", "-D", folder), f"restored {folder} as process {process.pid}")):
            done = subprocess.run([os.path.join(BUILD, "tools/checkpoint/checkpoint"), *arguments], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, preexec_fn=self.become(NOBODY), timeout=300, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn(says, done.stdout)
        self.check_owner(folder, NOBODY)
        self.assertTrue(is_running(process.pid))

    def test_bad_directories(self):
        process = self.sleeper(NOBODY)
        pid = ["pid", process.pid]
        invalid = "org.freedesktop.DBus.Error.InvalidArgs"
        file = os.path.join(self.dir, "file")
        with open(file, "w", encoding="ascii"):
            pass
        self.refused(invalid, "no directory", "DumpTo", pid, ["file", file], {}, uid=NOBODY)
        self.refused(invalid, "no directory", "RestoreFrom", ["file", file], {}, uid=NOBODY)
        self.refused(invalid, "no directory", "DumpTo", pid, ["path", self.folder("p", NOBODY)], {}, uid=NOBODY)
        self.refused(invalid, "Cannot make files in the directory as user 65534: Permission denied", "DumpTo", pid,
                     ["dir", self.folder("root", 0, 0o755)], {}, uid=NOBODY)
        self.refused(invalid, "as user 65534: Permission denied", "DumpTo", pid, ["dir", "/"], {}, uid=NOBODY)
        self.refused(invalid, "replace", "DumpTo", pid, ["dir", self.folder("q", NOBODY)], {"replace": True}, uid=NOBODY)
        full = self.folder("full", NOBODY)
        with open(full + "/core-1.img", "w", encoding="ascii"):
            pass
        self.refused(E + "CheckpointExists", "core-1.img", "DumpTo", pid, ["dir", full], {}, uid=NOBODY)
        self.refused(E + "ImageInvalid", "inventory", "RestoreFrom", ["dir", full], {}, uid=NOBODY)
        self.assertEqual(os.listdir(full), ["core-1.img"])
        self.assertTrue(is_running(process.pid))

    def mount(self, options):
        folder = self.folder("mount" + str(len(self.mounts)))
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
        self.mounts.append(folder)
        return folder

    def test_read_only_and_full(self):
        process = self.sleeper(NOBODY)
        pid = ["pid", process.pid]
        folder = self.mount("ro,mode=777")
        self.refused("org.freedesktop.DBus.Error.InvalidArgs", "Read-only file system", "DumpTo", pid, ["dir", folder], {},
                     uid=NOBODY)
        folder = self.mount("size=100k,mode=777")
        self.refused(E + "NoSpace", "No space left on device", "DumpTo", pid, ["dir", folder], {}, uid=NOBODY)
        self.assertEqual(os.listdir(folder), [], "a failed dump leaves nothing")
        self.assertTrue(is_running(process.pid))

    def test_links_in_the_way_are_not_followed(self):
        """The images' names are known beforehand: nothing that a link points to is written."""
        process, folder = self.sleeper(NOBODY), self.folder("images", NOBODY)
        victim = os.path.join(self.dir, "victim")
        with open(victim, "w", encoding="ascii") as f:
            f.write("old")
        os.symlink(victim, folder + "/pstree.img")
        self.refused(E + "CheckpointExists", "pstree.img", "DumpTo", ["pid", process.pid], ["dir", folder], {}, uid=NOBODY)
        with open(victim, encoding="ascii") as f:
            self.assertEqual(f.read(), "old")

    def test_pidfds(self):
        folder = self.folder("images", NOBODY)
        dead = self.sleeper(NOBODY)
        fd = pidfd_open(dead.pid)
        self.end(dead.pid)
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)

        def refused(name, *args):
            with self.assertRaises(dbus.DBusException) as caught:
                manager.DumpTo(*args, dbus.Dictionary(signature="sv"))
            self.assertEqual(caught.exception.get_dbus_name(), name)
            return caught.exception.get_dbus_message()
        directory = os.open(folder, os.O_RDONLY)
        unix = dbus.types.UnixFd
        self.assertIn("ended", refused(E + "NoSuchProcess", unix(fd), unix(directory)))
        self.assertIn("pidfd", refused("org.freedesktop.DBus.Error.InvalidArgs", unix(directory), unix(directory)))
        bus.close()
        os.close(fd)
        other = self.sleeper()
        self.refused(INTERACTION, "dump-any", "DumpTo", ["pid", other.pid], ["dir", folder], {}, uid=NOBODY)
        # an administrator's grant: then root's process comes into the user's directory, as the user's files
        games = pwd.getpwnam("games")
        folder = self.folder("games", games.pw_uid)
        os.chown(folder, games.pw_uid, games.pw_uid)
        self.works("DumpTo", ["pid", other.pid], ["dir", folder], {"leave-running": True}, uid=games.pw_uid)
        self.check_owner(folder, games.pw_uid)
        # but it does not come back for the user
        self.end(other.pid)
        self.refused(E + "NotPermittedTarget", "another user id than you", "RestoreFrom", ["dir", folder], {}, uid=games.pw_uid)

    def test_root_child_is_not_handed_out(self):
        sleeper = os.path.join(self.folder("bin", mode=0o755), "rootsleep")
        shutil.copy("/bin/sleep", sleeper)
        os.chmod(sleeper, 0o4755)
        process = self.start("/bin/sh", "-c", f"{sleeper} 1000; true", uid=NOBODY)
        wait_for(lambda: len(tree_of(process.pid)) == 2, "the child")
        time.sleep(0.1)
        folder = self.folder("images", NOBODY)
        self.refused(E + "NotPermittedTarget", "rootsleep.*user id", "DumpTo", ["pid", process.pid], ["dir", folder], {},
                     uid=NOBODY)
        self.assertEqual(os.listdir(folder), [])
        self.refused(INTERACTION, "dump-any", "DumpTo", ["pid", process.pid], ["dir", folder],
                     {"any-target": True}, uid=NOBODY)


if __name__ == "__main__":
    unittest.main(verbosity=2)
