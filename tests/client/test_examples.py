# SPDX-License-Identifier: LGPL-2.1-or-later
"""The examples do what they say."""
from client_case import *

class Examples(Client):
    EXAMPLES = os.path.join(HERE, "../../docs/examples")

    def run_as(self, uid, *command):
        env = {**os.environ, "PATH": os.path.join(BUILD, "tools/checkpoint") + ":" + os.environ["PATH"]}
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, check=False,
                              preexec_fn=self.become(uid), timeout=300)

    def test_go_back(self):
        """A C program that snapshots itself before a risky step."""
        out = os.path.join(self.folder("out", NOBODY), "log")
        self.names.append((NOBODY, "risk"))
        process = self.start(os.path.join(BUILD, "docs/examples/go-back"), "risk", out, uid=NOBODY,
                             env={"PATH": os.path.join(BUILD, "tools/checkpoint") + ":" + os.environ["PATH"]})
        process.out = out
        wait_for(lambda: process.poll() is not None, "it ends")
        self.assertEqual(self.lines(process, 2), ["trying", "back, and all numbers are right"])

    def test_follow(self):
        """A Python script that dumps and restores an application, and shows how far it is."""
        process = self.start("/bin/sleep", "1000", uid=NOBODY)
        time.sleep(0.2)
        self.names.append((NOBODY, "followed"))
        reaper = threading.Thread(target=process.wait)
        reaper.start()
        done = self.run_as(NOBODY, "/usr/bin/python3", self.EXAMPLES + "/follow.py", str(process.pid), "followed")
        reaper.join()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout,
                         rf"dump\n(   \w+\n)+\d+ bytes; .*\nrestore\n(   restore-[a-z]+\n)+process {process.pid} goes on")
        self.assertTrue(is_running(process.pid))

    def test_keep(self):
        """A shell script that brings a process back which died."""
        process = self.start("/bin/sleep", "1000", uid=NOBODY)
        time.sleep(0.2)
        self.names.append((NOBODY, "kept"))
        script = self.EXAMPLES + "/keep.sh"
        done = self.run_as(NOBODY, "sh", script, str(process.pid), "kept", "0", "2")
        self.assertEqual((done.returncode, done.stdout), (0, "checkpoint\ncheckpoint\n"))
        self.end(process.pid)
        done = self.run_as(NOBODY, "sh", script, str(process.pid), "kept", "0", "2")
        self.assertEqual((done.returncode, done.stdout), (0, "brought back\ncheckpoint\n"))

    def test_session(self):
        """A session manager; the session is that of the user "games", who has nothing else running."""
        uid = pwd.getpwnam("games").pw_uid
        home = self.folder("home", uid)
        one = self.start("/bin/sleep", "1000", uid=uid)
        two = self.start("/bin/sh", "-c", f"i=0; while :; do i=$((i+1)); echo $i >{home}/count; sleep 0.05; done", uid=uid)
        wait_for(lambda: os.path.exists(home + "/count"), "the applications")
        threads = [threading.Thread(target=p.wait) for p in (one, two)]
        for thread in threads:
            thread.start()
        done = self.run_as(uid, "/usr/bin/python3", self.EXAMPLES + "/session.py", "logout")
        self.assertEqual(done.returncode, 0, done.stdout)
        for thread in threads:
            thread.join()
        with open(home + "/count", encoding="ascii") as f:
            count = int(f.read() or 0)
        done = self.run_as(uid, "/usr/bin/python3", self.EXAMPLES + "/session.py", "login")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"back: {one.pid} (sleep)", done.stdout)
        self.assertTrue(is_running(one.pid) and is_running(two.pid))

        def higher():
            with open(home + "/count", encoding="ascii") as f:
                return int(f.read() or 0) > count + 2
        wait_for(higher, "the counter goes on")
        with open(home + "/count", encoding="ascii") as f:
            self.assertLess(int(f.read() or 0), count + 1000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
