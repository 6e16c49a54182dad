# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user's own checkpoint opens, it opens with that user's rights: a path may lead elsewhere by the time of the restore."""
from client_case import *

HOLDER = """
import os, sys, time
place, path = sys.argv[1:3]
os.chdir(place)
held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
if sys.argv[3] == "delete":
    os.unlink(path)
os.write(held, b"mine")
open(path + ".ready", "w").close()
while not os.path.exists(path + ".done"):
    time.sleep(0.02)
os.lseek(held, 0, 0)
with open(path + ".seen", "wb") as f:
    f.write(os.read(held, 100))
time.sleep(1000)
"""


class Rights(Client):
    def holder(self, path, what, place="/"):
        process = self.start("/usr/bin/python3", "-c", HOLDER, place, path, what, uid=NOBODY)
        wait_for(lambda: os.path.exists(path + ".ready"), "the file is open")
        return process

    def dump(self, process, name):
        self.names.append((NOBODY, name))
        self.works("Dump", dbus_u(process.pid), name, {}, uid=NOBODY)
        self.gone(process.pid)

    def log_of_dump(self, process, name):
        """What the engine has to say to a subscriber meanwhile."""
        watcher = subprocess.Popen(["dbus-monitor", "--system", "type='signal',interface='org.criu.Checkpoint.Job'"],
                                   stdout=subprocess.PIPE, text=True)
        for line in watcher.stdout:
            if "NameLost" in line:  # it listens now
                break
        self.dump(process, name)
        told = ""
        for line in watcher.stdout:
            told += line
            if "member=Finished" in line:
                break
        watcher.terminate()
        watcher.communicate()
        return told

    def secret(self):
        path = os.path.join(self.folder("root"), "secret")
        with open(path, "w", encoding="ascii") as f:
            f.write("root's")
        os.chmod(path, 0o600)
        os.chmod(os.path.dirname(path), 0o755)
        return path

    def test_link_to_another_file(self):
        home, secret = self.folder("home", NOBODY), self.secret()
        path = os.path.join(home, "file")
        self.dump(self.holder(path, "keep"), "linked")
        os.rename(path, path + ".old")
        os.symlink(secret, path)
        self.refused(E + "ImageIncompatible", f"Cannot open {path}: Permission denied .*with your rights", "Restore", "linked", {},
                     uid=NOBODY)
        os.unlink(path)
        os.rename(path + ".old", path)
        process = self.works("Restore", "linked", {}, uid=NOBODY)
        open(path + ".done", "w").close()
        wait_for(lambda: os.path.exists(path + ".seen") and os.path.getsize(path + ".seen") == 4, "what was read")
        self.end(process)

    def test_file_that_was_open_before(self):
        """A descriptor from times with more rights: the dump warns, a user's restore names the cures, and root's is one."""
        home = self.folder("home", NOBODY)
        path = os.path.join(home, "file")
        process = self.holder(path, "keep")
        os.chown(path, 0, 0)
        self.assertIn("you may not open " + path, self.log_of_dump(process, "closed-since"))
        self.refused(E + "ImageIncompatible", f"Cannot open {path}: Permission denied .*root restore the checkpoint", "Restore",
                     "closed-since", {}, uid=NOBODY)
        process = self.works("Restore", "closed-since", {"owner": dbus_u(NOBODY)})
        open(path + ".done", "w").close()
        wait_for(lambda: os.path.exists(path + ".seen") and os.path.getsize(path + ".seen") == 4, "what was read")
        self.end(process)

    def test_deleted_in_another_directory(self):
        """The name that a deleted file gets for a moment is not made where the user could not make it."""
        home, mine = self.folder("home", NOBODY), self.folder("root", 0, 0o755)
        folder = os.path.join(home, "folder")
        os.mkdir(folder)
        os.chown(folder, NOBODY, NOBODY)
        path = os.path.join(folder, "file")
        process = self.holder(path, "delete")
        self.dump(process, "deleted")
        os.rename(folder, folder + ".old")
        os.symlink(mine, folder)
        before = os.stat(mine).st_mtime_ns
        self.works("Restore", "deleted", {}, uid=NOBODY)
        self.assertEqual(os.stat(mine).st_mtime_ns, before, "something was made there")
        self.assertRegex(os.readlink(f"/proc/{process.pid}/fd/3"), r" \(deleted\)$")
        with open(path + ".done", "wb"):
            pass
        wait_for(lambda: os.path.exists(os.path.join(mine, "file.done")), "the link leads there")

    def test_unreachable_working_directory(self):
        """To be in a directory takes no right to it."""
        home, closed = self.folder("home", NOBODY), self.folder("closed", 0, 0o755)
        path = os.path.join(home, "file")
        process = self.holder(path, "keep", closed)
        os.chmod(closed, 0o700)
        self.dump(process, "closed")
        self.works("Restore", "closed", {}, uid=NOBODY)
        self.assertEqual(os.readlink(f"/proc/{process.pid}/cwd"), closed)


if __name__ == "__main__":
    unittest.main()
