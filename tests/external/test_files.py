#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and devices outside: opened elsewhere, embedded, inherited, compared with what they were."""
import os
import shutil
import subprocess
import time

from outside import Case, run

READER = """
f = open({path!r}, {mode!r})
f.read(4)
serve(read=lambda: f.read(), name=lambda: os.readlink("/proc/self/fd/%d" % f.fileno()),
      write=lambda: (f.seek(0, 2), f.write("written\\n"), f.flush()), pos=lambda: f.tell())
"""

MAPPER = """
import mmap
fd = os.open({path!r}, os.O_RDONLY)
m = mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_{flags})
os.close(fd)
serve(read=lambda: m[:8].decode(), name=lambda: [l.split(None, 5)[5].strip() for l in open("/proc/self/maps") if {name!r} in l])
"""


class Files(Case):
    def write(self, name, text):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def reader(self, path, mode="r"):
        return self.application(READER.format(path=path, mode=mode))

    def test_remap_at_the_dump(self):
        data, other = self.write("data", "one two three"), self.write("other", "ONE TWO THREE")
        app = self.reader(data)
        app.dump("--external", f"file:path={data} action=remap:{other}")
        os.unlink(data)
        app.restore()
        self.assertEqual(app.ask("name"), other)
        self.assertEqual(app.ask("read"), "one two three"[4:])  # in the buffer of the application
        self.assertIn(f'"name": "{data}"', app.decoded("files.img"))

    def test_remap_at_the_restore(self):
        data, other = self.write("data", "x" * 20000), self.write("other", "y" * 20000)
        app = self.reader(data)
        app.dump()
        app.restore("--external", f"file:path={data} action=remap:{other}")
        self.assertIn("y" * 10, app.ask("read"))
        self.assertEqual(app.ask("name"), other)

    def test_remap_of_a_mapping(self):
        for flags in ("PRIVATE", "SHARED"):
            with self.subTest(flags=flags):
                data, other = self.write("mapped-" + flags, "original" * 1000), self.write("moved-" + flags, "replaced" * 1000)
                app = self.application(MAPPER.format(path=data, flags=flags, name=flags))
                app.dump()
                app.restore("--external", f"file:path={data} action=remap:{other}")
                self.assertEqual(app.ask("read"), "replaced")
                self.assertEqual(app.ask("name"), repr([other]))
                app.end()

    def test_remap_to_nothing(self):
        data = self.write("data", "one two three")
        app = self.reader(data)
        app.dump("--external", f"file:path={data} action=remap:{data}.gone")
        app.restore(refused=[data + ".gone", "No such file"])

    def test_a_remapped_mapping_is_compared(self):
        data, other = self.write("mapped", "original" * 1000), self.write("moved", "short")
        app = self.application(MAPPER.format(path=data, flags="PRIVATE", name="mapped"))
        app.dump()
        app.restore("--external", f"file:path={data} action=remap:{other}",
                    refused=["in place of", "its size is 5, it was 8000", "check=none"])

    def test_what_has_changed_is_named(self):
        data = self.write("data", "one two three")
        os.utime(data, (1000000000, 1000000000))
        app = self.reader(data)
        app.dump("--external", f"file:path={data} check=size,mtime,content")
        with open(data, "a", encoding="utf-8") as f:
            f.write("four")
        app.restore(refused=["FileChanged", "its size is 17, it was 13", "it was modified", "before that 2001-09-",
                             "its content is another", "check=none"])
        with open(data, "w", encoding="utf-8") as f:
            f.write("One two three")
        errors = app.restore("--external", f"file:path={data} check=content", refused="its content is another")
        self.assertNotIn("size", errors.split("external with")[0])
        app.restore("--external", f"file:path={data} check=size")
        app.end()
        app.restore("--external", f"file:path={self.temporary.name}/** check=none")

    def test_not_kept(self):
        data = self.write("data", "one two three")
        app = self.reader(data)
        app.dump()
        app.restore("--external", f"file:path={data} check=content", refused=["cannot be compared by content", "at the dump"])

    def test_open_files_may_change_by_default(self):
        data = self.write("data", "one two three")
        app = self.reader(data, "r+")
        app.dump()
        with open(data, "a", encoding="utf-8") as f:
            f.write(" four")
        app.restore()
        self.assertEqual(app.ask("pos"), "4")

    def test_one_of_hundreds(self):
        paths = [self.write(f"data-{i}", f"content {i}") for i in range(600)]
        app = self.application(f'''
fs = [open({paths[0]!r}[:-1] + str(i)) for i in range(600)]
for i, f in enumerate(fs):
    os.lseek(f.fileno(), i % 7, 0)
serve(read=lambda: all(os.read(f.fileno(), 99).decode() == ("content %d" % i)[i % 7:] for i, f in enumerate(fs)))
''')
        app.dump()
        for i in (5, 300, 599):
            for make, said in ((lambda path: None, "No such file"), (os.mkfifo, "is a file of another type now"),
                               (os.mkdir, "is a file of another type now")):
                os.rename(paths[i], paths[i] + ".old")
                make(paths[i])
                app.restore(refused=["Cannot restore file id", paths[i], said])
                if make is os.mkdir:
                    os.rmdir(paths[i])
                os.rename(paths[i] + ".old", paths[i])
        app.restore()
        self.assertEqual(app.ask("read"), "True")

    def test_mapped_files_may_not(self):
        data = self.write("mapped", "original" * 1000)
        app = self.application(MAPPER.format(path=data, flags="SHARED", name="mapped"))
        app.dump()
        with open(data, "a", encoding="utf-8") as f:
            f.write("more")
        app.restore(refused=["FileChanged", "its size is 8004, it was 8000"])
        app.restore("--external", f"file:path={data} check=none")
        self.assertEqual(app.ask("read"), "original")

    def test_build_id_and_validation(self):
        program, other = self.path("program"), self.path("other")
        for name, value in ((program, 1), (other, 2)):
            subprocess.run(["gcc", "-x", "c", "-", "-o", name], check=True, text=True,
                           input="#include <unistd.h>\nint main(void) { for (;;) usleep(1000 * %d); }" % value)
        self.assertEqual(os.stat(program).st_size, os.stat(other).st_size)
        app = self.application("", program=[program])
        time.sleep(0.1)
        app.dump()
        os.rename(program, program + ".old")
        shutil.copy(other, program)
        app.restore(refused=["FileChanged", "its build id is another"])
        app.restore("--file-validation", "buildid", refused="its build id is another")
        app.restore("--file-validation", "filesize")
        app.end()
        os.truncate(program, os.stat(program).st_size + 1)
        app.restore("--file-validation", "filesize", refused="its size is")
        os.rename(program + ".old", program)
        app.restore()

    def test_embed(self):
        data = self.write("data", "one two three")
        os.chmod(data, 0o640)
        os.chown(data, 12, 34)
        app = self.reader(data, "r+")
        app.dump("--external", f"file:path={data} action=embed")
        app.restore()  # it is still there, and the same
        app.end()
        os.unlink(data)
        app.restore()
        st = os.stat(data)
        self.assertEqual((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o640, 12, 34))
        self.assertEqual(app.ask("name"), data)
        self.assertEqual(app.ask("write"), "(0, 8, None)".replace("0", "13", 1))
        with open(data, encoding="utf-8") as f:
            self.assertEqual(f.read(), "one two threewritten\n")
        app.end()
        app.restore(refused=["FileChanged", "its content is another", "move it away", "action=reopen"])
        app.restore("--external", f"file:path={data} action=reopen check=none")
        self.assertEqual(sorted(os.listdir(self.temporary.name)), sorted(["app-1", "data", "images-2"]))

    def test_embed_a_mapping_with_holes(self):
        data = self.write("sparse", "original")
        os.truncate(data, 50 << 20)
        app = self.application(MAPPER.format(path=data, flags="SHARED", name="sparse"))
        app.dump("--external", f"file:path={data} action=embed")
        size = sum(os.stat(os.path.join(app.images, n)).st_blocks * 512 for n in os.listdir(app.images))
        self.assertLess(size, 40 << 20)
        app.decoded(next(n for n in os.listdir(app.images) if n.startswith("ghost-file")))
        os.unlink(data)
        app.restore()
        self.assertEqual(app.ask("read"), "original")
        self.assertEqual(os.stat(data).st_size, 50 << 20)

    def test_embed_must_be_said_at_the_dump(self):
        data = self.write("data", "one two three")
        app = self.reader(data)
        app.dump()
        app.restore("--external", f"file:path={data} action=embed", refused="must be said at the dump")

    def test_inherit(self):
        data, other = self.write("data", "x" * 20000), self.write("other", "given" * 4000)
        app = self.reader(data)
        app.dump("--external", f"file:path={data} action=inherit")
        os.unlink(data)
        app.restore(refused=["--inherit-fd", data[1:]])
        with open(other, "rb") as f:
            app.restore("--inherit-fd", f"fd[{f.fileno()}]:{data[1:]}", fds=(f.fileno(),))
        self.assertIn("givengiven", app.ask("read"))

    def test_inherit_as_criu_says_it(self):
        data = self.write("data", "x" * 20000)
        app = self.reader(data)
        key = "file[1f:%x]" % os.stat(data).st_ino
        app.dump("--external", key)
        with open(data, "rb") as f:
            app.restore("--inherit-fd", f"fd[{f.fileno()}]:{key}", fds=(f.fileno(),))
        self.assertEqual(len(app.ask("read")), 8192 - 4 + 20000)  # its buffer, then from where the given one stands

    def test_inherit_without_a_rule(self):
        data, other = self.write("data", "x" * 20000), self.write("other", "given" * 4000)
        app = self.reader(data)
        app.dump()
        with open(other, "rb") as f:
            app.restore("--inherit-fd", f"fd[{f.fileno()}]:{data[1:]}", fds=(f.fileno(),))
        self.assertEqual(app.ask("name"), other)

    def test_a_covered_file(self):
        """A file under whose name another lies now, and a rule that takes that one instead."""
        data = self.write("data", "one two three")
        app = self.reader(data)
        os.link(data, data + ".second")
        os.rename(self.write("new", "new content, longer"), data)
        app.dump("-R")
        self.assertEqual(app.ask("name"), data + " (deleted)")
        app.dump("--external", f"file:path={data} action=reopen")
        app.restore()
        self.assertEqual(app.ask("name"), data)

    def test_forbidden_files(self):
        data = self.write("data", "one two three")
        app = self.reader(data)
        app.dump("--external", f'file:path={data} action=fail reason="private"', refused="private")


class Devices(Case):
    def test_devices(self):
        """/dev/net/tun stands for devices without a plugin; the application has done nothing with it yet."""
        device = self.path("device")
        os.mknod(device, 0o600 | 0o020000, os.makedev(10, 200))
        self.addCleanup(lambda: os.path.exists(device) and os.unlink(device))
        app = self.application(f"""
f = os.open({device!r}, os.O_RDWR)
serve(rdev=lambda: os.fstat(f).st_rdev, name=lambda: os.readlink("/proc/self/fd/%d" % f))
""")
        app.dump(refused=["character device", "(10:200)", "plugin"])
        app.dump("--external", "device:rdev=10:201 action=reopen", refused="character device")
        app.dump("--external", "device:rdev=10:200 action=reopen")
        self.assertIn(device, app.decoded("files.img"))
        app.restore()
        self.assertEqual(app.ask("rdev"), str(os.makedev(10, 200)))
        app.end()
        other = self.path("other")
        os.rename(device, other)
        self.addCleanup(os.unlink, other)
        app.restore(refused=[device, "No such file"])
        app.restore("--external", f"device:path={device} action=remap:{other}")
        self.assertEqual(app.ask("name"), other)
        app.end()
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 11))
        app.restore(refused=["another device", "1:11", "10:200"])
        fd = os.open(other, os.O_RDWR)
        self.addCleanup(os.close, fd)
        app.restore("--inherit-fd", f"fd[{fd}]:{device[1:]}", fds=(fd,))
        self.assertEqual(app.ask("rdev"), str(os.makedev(10, 200)))

    def test_plugin_by_name(self):
        device = self.path("device")
        os.mknod(device, 0o600 | 0o020000, os.makedev(10, 200))
        self.addCleanup(os.unlink, device)
        app = self.application(f"f = os.open({device!r}, os.O_RDWR)\nserve()")
        app.dump("--external", "device:path=** action=plugin:tun-nowhere", refused="no plugin tun-nowhere took it")


if __name__ == "__main__":
    run()
