#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Wayland client inside a compositor of its own (weston without a screen): both come back, and the client goes on drawing."""
import glob
import os
import shutil
import subprocess

from outside import Case, read, run, tree, wait_until

SCRIPT = """#!/bin/sh
weston --backend=headless-backend.so --use-pixman --debug --socket=wayland-test --width=320 --height=240 >weston.log 2>&1 &
while ! weston-info >/dev/null 2>&1; do sleep 0.1; done
"$@" >client.log 2>&1 &
wait
"""


class Wayland(Case):
    def setUp(self):
        super().setUp()
        for tool in ("weston", "weston-info", "weston-simple-shm", "weston-screenshooter"):
            if not shutil.which(tool):
                self.skipTest(f"there is no {tool}")
        self.runtime = self.make_directory("runtime")
        os.chmod(self.runtime, 0o700)
        self.wayland = {"PATH": "/usr/bin:/bin", "LANG": "C", "HOME": self.runtime, "XDG_RUNTIME_DIR": self.runtime,
                        "WAYLAND_DISPLAY": "wayland-test"}

    def shot(self):
        """What is on the screen, as a PNG; b"" while nobody answers."""
        where = self.make_directory("shot")
        done = subprocess.run(["weston-screenshooter"], env=self.wayland, cwd=where, timeout=120, check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = glob.glob(os.path.join(where, "*.png"))
        if done.returncode != 0 or not found:
            return b""
        with open(found[0], "rb") as f:
            return f.read()

    def compositor(self):
        done = subprocess.run(["weston-info"], env=self.wayland, capture_output=True, text=True, timeout=120, check=False)
        return "wl_compositor" in done.stdout

    def client(self, app):
        for pid in tree(app.pid):
            try:
                if read(f"/proc/{pid}/comm").startswith("weston-simple"):
                    return pid
            except OSError:
                pass  # it has ended, as those that ask for the compositor do
        return 0

    def is_drawing(self, app):
        """Its picture is another one in each frame."""
        first = wait_until(self.shot)
        return wait_until(lambda: self.client(app) and self.shot() not in (b"", first))

    def test_client_and_compositor(self):
        script = self.path("start")
        with open(script, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\ncd {self.runtime}\n" + SCRIPT.split("\n", 1)[1])
        os.chmod(script, 0o755)
        app = self.application("", program=[script, "weston-simple-shm"], environment=self.wayland)
        self.assertTrue(wait_until(lambda: self.client(app)), "the client does not start")
        self.assertTrue(self.is_drawing(app), "nothing is drawn before")
        for _ in range(2):
            app.dump("--file-locks")  # of the compositor's socket
            self.assertEqual(self.shot(), b"")
            app.restore("--file-locks")
            self.assertTrue(self.compositor(), "the compositor takes no clients")
            self.assertTrue(self.is_drawing(app), "the client draws no more")


if __name__ == "__main__":
    run()
