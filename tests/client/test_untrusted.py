# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of a caller are its word: forged ones."""
import glob

from client_case import *

def core(change):
    """Changes the first thread's core-PID.img."""
    return "core-{pid}.img", lambda entries: change(entries[0])


def creds(**fields):
    return core(lambda c: c["thread_core"]["creds"].update(fields))


def task(**fields):
    return core(lambda c: c["tc"].update(fields))


def thread(**fields):
    return core(lambda c: c["thread_core"].update(fields))


def file_of(kind, change):
    """Changes the first entry of that type in files.img."""
    return "files.img", lambda entries: change(next(e for e in entries if e["type"] == kind))


def log_file(change):
    def find(entries):
        change(next(e for e in entries if e["type"] == "REG" and e["reg"]["name"].endswith("/log")))
    return "files.img", find


def another_file(entry, path, flags, mode=None):
    entry["reg"].update(name=path.format(home=home), flags=flags)
    for key in ("size", "mode", "build_id"):
        entry["reg"].pop(key, None)
    if mode:
        entry["reg"]["mode"] = mode


def program(path):
    """Another file in place of what the process executes, but not of what it maps."""
    def change(entries):
        entries.append({"type": "REG", "id": 7777, "reg": {"id": 7777, "flags": 0, "pos": 0, "name": path.format(home=home),
                        "fown": {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}}})
    return "files.img", change


def limit(i, value):
    def change(c):
        c["tc"]["rlimits"]["rlimits"][i].update(cur=value, max=value)
    return core(change)


def tcp(**fields):
    return file_of("INETSK", lambda e: e["isk"].update(fields))


def option(kind, key, **fields):
    return file_of(kind, lambda e: e[key]["opts"].update(fields))


def root_elsewhere(entries):
    for entry in entries:
        if entry["type"] == "REG" and entry["reg"]["name"] == "/":
            entry["reg"]["name"] = "/tmp"


BOUND = {"so_bound_dev": "lo"}
# what is smuggled in, where, and what the refusal says; {pid} is the process
SMUGGLED = {
    "root's user id": (creds(uid=0, euid=0, suid=0, fsuid=0), "another user id"),
    "root's saved user id": (creds(suid=0), "another user id"),
    "root's file system user id": (creds(fsuid=0), "another user id"),
    "root's group": (creds(gid=0, egid=0, sgid=0, fsgid=0), "another group id"),
    "root's saved group": (creds(sgid=0), "another group id"),
    "a supplementary group": (creds(groups=[42]), "in group 42"),
    "permitted capabilities": (creds(cap_prm=[0xffffffff, 0x1ff]), "has capabilities"),
    "an effective capability": (creds(cap_eff=[0x200000, 0]), "has capabilities"),
    "an inheritable capability": (creds(cap_inh=[1, 0]), "has capabilities"),
    "a smaller bounding set": (creds(cap_bnd=[0, 0]), "bounding set"),
    "secure bits": (creds(secbits=1), "secure bits"),
    "a security label": (creds(lsm_profile="unconfined_u:unconfined_r:init_t"), "security label"),
    "a label for new files": (creds(lsm_sockcreate="x"), "security label"),
    "seccomp": (thread(seccomp_mode="filter"), "seccomp"),
    "real-time scheduling": (thread(sched_policy=1, sched_prio=50), "scheduled by policy 1"),
    "a deadline": (thread(sched_policy=6), "scheduled by policy 6"),
    "niceness": (thread(sched_nice=-5), "niceness -5"),
    "oom_score_adj": (task(oom_score_adj=-1000), "killed later than you"),
    "more open files": (limit(7, 1 << 30), "resource limit 7"),
    "more locked memory": (limit(8, (1 << 62)), "resource limit 8"),
    "niceness by a limit": (limit(13, 40), "resource limit 13"),
    "dumpable for root": (("mm-{pid}.img", lambda entries: entries[0].update(dumpable=2)), "dumpable for root"),
    "a namespace": (("ids-{pid}.img", lambda entries: entries[0].update(net_ns_id=99)), "namespace"),
    "a root directory": (("files.img", root_elsewhere), "root directory"),
    "a low process id": (("pstree.img", lambda entries: None), "process id below"),
    "an alarm clock": (core(lambda c: c["tc"]["timers"]["posix"][0].update(clock_id=8)), "wakes the machine"),
    "somebody's memory": (log_file(lambda e: e["reg"].update(name="/proc/1/mem")), "not a file but a process"),
    "a way around that": (log_file(lambda e: e["reg"].update(name="/dev/fd/../../proc/self/mem")), "device|Cannot open|is a"),
    "a disk": (log_file(lambda e: e["reg"].update(name="/dev/sda", mode=0o60660)), "is a device"),
    "kernel memory": (log_file(lambda e: (e["reg"].update(name="/dev/mem"), e["reg"].pop("mode", None))), "is a device"),
    "a terminal": (log_file(lambda e: e["reg"].update(name="/dev/tty1", mode=0o20600)), "is a device"),
    "a raw socket": (tcp(type=3), "raw socket"),
    "a packet socket": (tcp(family=17), "family 17"),
    "an established connection": (tcp(state=1, dst_port=22), "TCP connection"),
    "a privileged port": (tcp(src_port=80), "port 80"),
    "somebody's address": (tcp(ip_opts={"freebind": True}), "foreign addresses"),
    "a mark": (option("INETSK", "isk", so_mark=1), "has a mark"),
    "priority": (option("INETSK", "isk", so_priority=7), "priority 7"),
    "a device": (option("INETSK", "isk", **BOUND), "bound to the device lo"),
    "a mark on a unix socket": (option("UNIXSK", "usk", so_mark=1), "has a mark"),
    "a socket file of root's": (file_of("UNIXSK", lambda e: e["usk"].update(file_perms={"mode": 0o777, "uid": 0, "gid": 0})),
                                "bound to a file of user 0"),
    "a memfd of root's": (("memfd.img", lambda entries: entries[0].update(uid=0)), "memfd"),
    "signals to init": (log_file(lambda e: e["reg"]["fown"].update(uid=NOBODY, euid=NOBODY, signum=9, pid_type=1, pid=1)),
                        "sends signals to process 1"),
    "signals as root": (log_file(lambda e: e["reg"]["fown"].update(uid=0, euid=0, signum=9, pid_type=1, pid=1)),
                        "in the name of user 0"),
    # what the kernel says no to, because by then the engine is the caller
    "a secret file": (log_file(lambda e: another_file(e, "/etc/shadow", 0)), "Permission denied"),
    "somebody's memory by a link": (log_file(lambda e: another_file(e, "{home}/memory", 2)), "not a file but a process"),
    "a device by a link": (log_file(lambda e: another_file(e, "{home}/device", 2, 0o20666)), "is a device|but a device"),
    "a program of root's alone": (program("{home}/../bin/secret"), "Permission denied"),
    "a program that is none": (program("{home}/../bin/text"), "Permission denied|EACCES"),
    "a deleted file of root's": (("ghost-file-*.img", lambda entries: entries[0].update(uid=0)), "Cannot set owner"),
    "a file to write": (log_file(lambda e: another_file(e, "/etc/passwd", 2)), "Permission denied"),
}
BY_THE_KERNEL = ("a secret file", "a file to write", "a way around that", "a device by a link", "a program of root's alone",
                 "a program that is none", "a deleted file of root's")
home = "" # of the application that was dumped


class Untrusted(Client):
    """Forged images: each is what a user's own application left, with one thing changed."""

    def setUp(self):
        super().setUp()
        global home
        home = self.home = self.folder("home", NOBODY)
        os.symlink("/proc/self/mem", home + "/memory")
        os.symlink("/dev/ptmx", home + "/device")
        programs = self.folder("bin", mode=0o755)
        shutil.copy("/bin/true", programs + "/secret")
        os.chmod(programs + "/secret", 0o700)
        with open(programs + "/text", "w", encoding="ascii") as f:
            f.write("not a program")
        process = self.start("/usr/bin/python3", os.path.join(HERE, "wardrobe.py"), self.home, uid=NOBODY)
        wait_for(lambda: os.path.exists(self.home + "/ready"), "the application")
        self.images = self.folder("images", NOBODY)
        self.works("DumpTo", ["pid", process.pid], ["dir", self.images], {}, uid=NOBODY)
        self.pid = process.pid
        self.gone(self.pid)
        # it proves nothing, so whoever forges images leaves it out
        os.unlink(self.images + "/checkpoint.img")

    def edit(self, folder, name, change):
        path = glob.glob(os.path.join(folder, name.format(pid=self.pid)))[0]
        text = subprocess.run(["crit", "decode", "-i", path], capture_output=True, text=True, check=True).stdout
        image = json.loads(text)
        change(image["entries"])
        subprocess.run(["crit", "encode", "-o", path], input=json.dumps(image), text=True, check=True, capture_output=True)

    def forge(self, n, name, change):
        folder = os.path.join(self.dir, f"forged{n}")
        shutil.copytree(self.images, folder)
        for path in [folder] + [os.path.join(folder, f) for f in os.listdir(folder)]:
            os.chown(path, NOBODY, NOBODY)
        self.edit(folder, name, change)
        return folder

    def test_unchanged_images_are_restored(self):
        def restored():
            self.assertEqual(self.works("RestoreFrom", ["dir", self.images], {}, uid=NOBODY), self.pid)
            with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
                status = dict(re.findall(r"^(\w+):\t(.*)$", f.read(), re.M))
            self.assertEqual(status["Uid"].split(), [str(NOBODY)] * 4)
            self.assertEqual(status["Gid"].split(), [str(NOBODY)] * 4)
            self.assertEqual(status["Groups"].strip(), "")
            for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(status[caps], 16), 0, caps)
            self.assertEqual(status["Threads"], "2")
            with open("/proc/self/status", encoding="ascii") as f:
                self.assertIn("CapBnd:\t" + status["CapBnd"] + "\n", f.read())
            self.pids.add(self.pid)
            self.end(self.pid)
        os.unlink(self.home + "/socket")
        restored()

    def test_whatever_is_smuggled_in(self):
        for n, (what, ((name, change), says)) in enumerate(SMUGGLED.items()):
            with self.subTest(what):
                folder = self.forge(n, name, change)
                if what.startswith("a program"):
                    self.edit(folder, "mm-{pid}.img", lambda entries: entries[0].update(exe_file_id=7777))
                if what == "a low process id":
                    self.edit(folder, "pstree.img", lambda entries: entries[0].update(pid=200, pgid=200, sid=200, threads=[200]))
                    for old in os.listdir(folder):
                        m = re.fullmatch(rf"(\w+)-{self.pid}\.img", old)
                        if m:
                            os.rename(f"{folder}/{old}", f"{folder}/{m[1]}-200.img")
                reply = self.ask("RestoreFrom", ["dir", folder], {}, uid=NOBODY)
                if "error" not in reply:
                    self.end(reply["pid"])
                self.assertIn("error", reply, f"{what} came through")
                self.assertRegex(reply["text"], says)
                if what not in BY_THE_KERNEL:
                    self.assertEqual(reply["error"], E + "NotPermittedTarget", reply)
                self.assertFalse(os.path.exists(f"/proc/{self.pid}"), "something of it was made")


OUTSIDE = """
import os, socket, sys, time
base, log = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(log)
f = open(base + "/plugin-embedded")
open(base + "/ready", "w").close()
while not os.path.exists(base + "/speak"):
    time.sleep(0.005)
s.send(f.read().encode())
time.sleep(1000)
"""


class ShippedPlugins(Client):
    def test_with_the_rights_of_the_caller(self):
        """What a machine's rules send to a shipped plugin comes back from images of a caller's, made with the caller's rights."""
        home, images = self.folder("home", NOBODY, 0o755), self.folder("images", NOBODY)
        with open(home + "/plugin-embedded", "w", encoding="ascii") as f:
            f.write("embedded")
        os.chown(home + "/plugin-embedded", NOBODY, NOBODY)
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        log.bind(self.dir + "/plugin-log")
        os.chmod(self.dir + "/plugin-log", 0o666)
        log.settimeout(10)
        log.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        process = self.start("/usr/bin/python3", "-I", "-c", OUTSIDE, home, self.dir + "/plugin-log", uid=NOBODY)
        wait_for(lambda: os.path.exists(home + "/ready"), "the application")
        self.works("DumpTo", ["pid", process.pid], ["dir", images], {}, uid=NOBODY)
        self.gone(process.pid)
        os.unlink(home + "/plugin-embedded")
        os.chmod(home, 0o500) # where the caller may not write, nothing can be made
        self.refused(E + "PluginFailed", "Cannot make the embedded file .*Permission denied", "RestoreFrom", ["dir", images], {}, uid=NOBODY)
        os.chmod(home, 0o700)
        self.assertEqual(self.works("RestoreFrom", ["dir", images], {}, uid=NOBODY), process.pid)
        st = os.stat(home + "/plugin-embedded")
        self.assertEqual((st.st_uid, st.st_gid), (NOBODY, NOBODY))
        open(home + "/speak", "w").close()
        text, control, _, _ = log.recvmsg(100, 100)
        self.assertEqual(text, b"embedded")
        self.assertEqual(int.from_bytes(control[0][2][:4], sys.byteorder), process.pid)
        log.close()


class UntrustedCallers(Client):
    def test_stopped_engine_can_be_ended(self):
        """An engine that is its caller can be stopped by it, but not be kept."""
        folder = self.folder("images", NOBODY)
        code = "x = bytearray(b'x') * (400 << 20)\nimport time\ntime.sleep(1000)"
        process = self.start("/usr/bin/python3", "-c", code, uid=NOBODY)

        def grown():
            with open(f"/proc/{process.pid}/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) > 100000
        wait_for(grown, "memory")
        threading.Thread(target=process.wait).start()
        self.works("DumpTo", ["pid", process.pid], ["dir", folder], {}, uid=NOBODY)
        self.gone(process.pid)
        replies = []
        thread = threading.Thread(target=lambda: replies.append(self.ask("RestoreFrom", ["dir", folder], {}, uid=NOBODY)))
        thread.start()

        program = os.path.realpath(BUILD) + "/engine/checkpointd-engine"

        def engine():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/exe") == program and os.stat(f"/proc/{pid}").st_uid == NOBODY:
                        return int(pid)
                except OSError:
                    pass
            return 0
        wait_for(engine, "the engine as its caller")
        subprocess.run(["kill", "-STOP", str(engine())], preexec_fn=self.become(NOBODY), check=True)
        bus = dbus.SystemBus(private=True)
        manager = dbus.Interface(bus.get_object(SERVICE, PATH), MANAGER)
        for path, about in manager.ListJobs(dbus.Dictionary({"owner": dbus.UInt32(NOBODY)}, signature="sv")):
            if about["State"] == "running":
                dbus.Interface(bus.get_object(SERVICE, path), JOB).Cancel(dbus.Dictionary(signature="sv"))
        bus.close()
        thread.join(300)
        self.assertEqual(replies[0].get("error"), E + "Cancelled", replies)
        wait_for(lambda: not engine(), "no engine is left")
        self.gone(process.pid)

    def test_limits_of_the_caller_bind(self):
        import resource
        process, folder = self.start("/bin/sleep", "1000", uid=NOBODY), self.folder("images", NOBODY)
        time.sleep(0.2)
        self.works("DumpTo", ["pid", process.pid], ["dir", folder], {}, uid=NOBODY)
        self.gone(process.pid)
        self.refused(E + "NotPermittedTarget", "resource limit 7 of", "RestoreFrom", ["dir", folder], {}, uid=NOBODY,
                     limits=(resource.RLIMIT_NOFILE, (200, 200)))
        self.assertEqual(self.works("RestoreFrom", ["dir", folder], {}, uid=NOBODY), process.pid)

    def test_confined_callers(self):
        """What keeps the caller in would not keep in what it restores."""
        folder = self.folder("images", NOBODY)
        process = self.start("/bin/sleep", "1000", uid=NOBODY)
        time.sleep(0.2)
        self.works("DumpTo", ["pid", process.pid], ["dir", folder], {}, uid=NOBODY)
        self.gone(process.pid)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
        for how in (("--net",), ("--mount",), ("--uts",), ("--ipc",)):
            self.refused(E + "NotPermittedTarget", "namespace of its own", "RestoreFrom", ["dir", folder], {},
                         before=("unshare", *how, *drop))
        # no_new_privs and a smaller bounding set are handed on
        self.assertEqual(self.works("RestoreFrom", ["dir", folder], {}, before=(
            "setpriv", "--no-new-privs", *drop[1:])), process.pid)
        with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
            self.assertIn("NoNewPrivs:\t1\n", f.read())
        self.end(process.pid)
        self.assertEqual(self.works("RestoreFrom", ["dir", folder], {}, before=(
            "setpriv", "--bounding-set=-sys_admin", *drop[1:])), process.pid)
        with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
            bounding = int(re.search(r"CapBnd:\t(\w+)", f.read())[1], 16)
        self.assertEqual(bounding & (1 << 21), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
