#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What has become of files between the dump and the restore: each change is refused by its name, and says what would help. And
no flag of open(2) acts a second time."""
import json
import os
import shutil
import subprocess

from outside import Case, read, run

HOLDER = """
f = os.open({path!r}, {flags})
serve(read=lambda: os.pread(f, 100, 0).decode(), name=lambda: os.readlink("/proc/self/fd/%d" % f),
      write=lambda: os.write(f, b"more"))
"""


class Reopen(Case):
    def file(self, name, text="content"):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def holder(self, path, flags="os.O_RDWR"):
        return self.application(HOLDER.format(path=path, flags=flags))

    def mount(self, *arguments):
        folder = self.make_directory("mount")
        if subprocess.run(["mount", "-t", "tmpfs", *arguments, "none", folder], check=False).returncode:
            self.skipTest("cannot mount here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False, stderr=subprocess.DEVNULL)
        return folder

    def change(self, app, change):
        """Another files.img, without the digests that would tell."""
        image, text = os.path.join(app.images, "files.img"), self.path("files.json")
        subprocess.run(["crit", "decode", "-i", image, "-o", text], check=True)
        with open(text, encoding="utf-8") as f:
            entries = json.load(f)
        for entry in entries["entries"]:
            change(entry)
        with open(text, "w", encoding="utf-8") as f:
            json.dump(entries, f)
        subprocess.run(["crit", "encode", "-i", text, "-o", image], check=True)
        os.unlink(os.path.join(app.images, "checkpoint.img"))

    def test_missing(self):
        path = self.file("data")
        app = self.holder(path)
        app.dump()
        os.rename(path, path + ".old")
        app.restore(refused=[path, "No such file", "action=remap:OTHER"])
        app.restore("--external", f"file:path={path} action=remap:{path}.old")
        self.assertEqual(app.ask("name"), path + ".old")

    def test_another_type(self):
        path = self.file("data")
        app = self.holder(path)
        app.dump()
        for make in (os.mkdir, os.mkfifo, lambda p: os.symlink("/dev/null", p), lambda p: os.mknod(p, 0o20600, os.makedev(1, 5))):
            os.unlink(path)
            make(path)
            errors = app.restore(refused=[path])
            self.assertRegex(errors, "Is a directory|is a file of another type now")
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            self.file("data")
        app.restore()
        self.assertEqual(app.ask("read"), "content")

    def test_read_only_now(self):
        folder = self.mount()
        path = os.path.join(folder, "data")
        with open(path, "w", encoding="ascii") as f:
            f.write("content")
        app, reader = self.holder(path), self.holder(path, "os.O_RDONLY")
        app.dump()
        reader.dump()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        app.restore(refused=[path, "mounted read-only now"])
        reader.restore()
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        app.restore()
        self.assertEqual((app.ask("read"), reader.ask("read")), ("content", "content"))
        app.end()
        reader.end()

    def test_a_program_now(self):
        path = self.path("data")
        shutil.copy("/bin/sleep", path)
        app = self.holder(path)
        app.dump()
        with subprocess.Popen([path, "1000"]) as process:
            app.restore(refused=[path, "somebody runs it as a program now"])
            process.kill()
        app.restore()
        self.assertEqual(app.ask("name"), path)

    def test_its_file_system_is_gone(self):
        folder = self.mount()
        path = os.path.join(folder, "data")
        with open(path, "w", encoding="ascii") as f:
            f.write("content")
        app = self.holder(path)
        app.dump()
        subprocess.run(["umount", folder], check=True)
        app.restore(refused=[path, "No such file"])

    def test_flags_do_not_act_again(self):
        """Those that would create or cut a file, which the kernel never reports, in an image that somebody made."""
        path = self.file("data")
        app = self.holder(path)
        app.dump()

        def set_flags(entry):
            if entry["type"] == "REG" and entry["reg"]["name"] == path:
                entry["reg"]["flags"] = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TRUNC
        self.change(app, set_flags)
        app.restore()
        self.assertEqual(app.ask("read"), "content")

    def test_deleted_in_a_directory_that_is_gone(self):
        """The name of a deleted file takes its directories for a moment; and where there can be none, it goes without."""
        folder = self.mount()
        path = os.path.join(folder, "data")
        app = self.holder(path, "os.O_RDWR | os.O_CREAT")
        app.ask("write")
        os.unlink(path)
        app.dump()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        app.restore()
        self.assertEqual(app.ask("read"), "more")
        self.assertTrue(app.ask("name").endswith(" (deleted)"))
        self.assertIn("cannot have its name in /proc again", read(os.path.join(app.images, "restore.log")))


if __name__ == "__main__":
    run()
