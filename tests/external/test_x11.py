#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Graphical programs: inside a display server of their own they come back drawing; outside of one they are refused, and
told about it."""
import os
import shutil
import struct
import subprocess
import time

from outside import Case, alive, run, wait_until

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "engine", "policy", "external.d")

# The root of the tree is a shell script, as xvfb-run is one.
SCRIPT = """#!/bin/sh
display=:$1
shift
Xvfb "$display" -screen 0 320x240x24 -nolisten tcp -noreset -auth /dev/null &
while ! xwininfo -display "$display" -root >/dev/null 2>&1; do sleep 0.1; done
export DISPLAY="$display"
"$@" &
wait
"""


class Screen:
    """What xwd(1) writes, as a list of pixels."""

    def __init__(self, data):
        header = struct.unpack(">25I", data[:100])
        size, _, _, _, width, height = header[:6]
        bits, line, colors = header[11], header[12], header[19]
        start = size + colors * 12
        step = bits // 8
        self.pixels = [data[start + y * line + x * step:start + y * line + x * step + 3]
                       for y in range(height) for x in range(width)]

    def __eq__(self, other):
        return self.pixels == other.pixels

    def colors(self):
        return len(set(self.pixels))


def free_display():
    for n in range(200 + os.getpid() % 600, 1000):
        if not os.path.exists(f"/tmp/.X{n}-lock") and not os.path.exists(f"/tmp/.X11-unix/X{n}"):
            return n
    raise AssertionError("no free display")


class Displays(Case):
    def setUp(self):
        super().setUp()
        for tool in ("Xvfb", "xwd", "xclock", "xlogo", "xwininfo"):
            if not shutil.which(tool):
                self.skipTest(f"there is no {tool}")
        self.display = free_display()
        self.addCleanup(self.remove_traces)

    def remove_traces(self):
        for path in (f"/tmp/.X{self.display}-lock", f"/tmp/.X11-unix/X{self.display}"):
            if os.path.exists(path):
                os.unlink(path)

    def shot(self):
        done = subprocess.run(["xwd", "-silent", "-display", f":{self.display}", "-root"], capture_output=True, timeout=120,
                              check=False)
        return Screen(done.stdout) if done.returncode == 0 else None

    def drawn(self):
        """A screen with more than its background, twice the same within a moment."""
        def test():
            first = self.shot()
            if not first or first.colors() < 2:
                return None
            time.sleep(0.2)
            return first if self.shot() == first else None
        screen = wait_until(test)
        self.assertTrue(screen, "nothing was drawn")
        return screen

    def start(self, *program):
        script = self.path("start")
        with open(script, "w", encoding="utf-8") as f:
            f.write(SCRIPT)
        os.chmod(script, 0o755)
        app = self.application("", program=[script, str(self.display), *program],
                               environment={"PATH": "/usr/bin:/bin", "LANG": "C", "HOME": "/nonexistent"})
        return app

    def test_a_still_picture(self):
        """xlogo: the same picture before and after, and the window still answers."""
        app = self.start("xlogo", "-geometry", "200x200+10+10")
        before = self.drawn()
        app.dump()
        self.assertIsNone(self.shot())
        app.restore()
        self.assertEqual(self.shot(), before)
        done = subprocess.run(["xwininfo", "-display", f":{self.display}", "-root", "-tree"], capture_output=True, text=True,
                              check=False)
        self.assertIn('"xlogo"', done.stdout)
        # A second window server client from outside, which covers and uncovers the logo: it must draw itself again.
        cover = subprocess.Popen(["xlogo", "-display", f":{self.display}", "-geometry", "320x240+0+0", "-bg", "red"])
        self.addCleanup(cover.wait)
        self.addCleanup(cover.kill)
        self.assertTrue(wait_until(lambda: self.shot() != before))
        cover.kill()
        self.assertTrue(wait_until(lambda: self.shot() == before), "the logo did not draw itself again")

    def test_a_clock_goes_on(self):
        app = self.start("xclock", "-update", "1", "-geometry", "200x200+0+0")
        self.assertTrue(wait_until(lambda: (self.shot() or Screen(b"\0" * 100)).colors() > 1), "nothing was drawn")
        for _ in range(2):
            app.dump()
            app.restore()
            shot = self.shot()
            self.assertTrue(wait_until(lambda: self.shot() != shot), "the clock stands still")

    def test_xvfb_run(self):
        """Debian's script, with an authority file; the tree is the script, the server and the program."""
        if not shutil.which("xvfb-run") or not shutil.which("xauth"):
            self.skipTest("there is no xvfb-run or no xauth")
        authority = self.path("authority")
        os.environ["XAUTHORITY"] = authority
        self.addCleanup(os.environ.pop, "XAUTHORITY")
        app = self.application("", program=["/usr/bin/xvfb-run", "-n", str(self.display), "-f", authority, "-s",
                                            "-screen 0 320x240x24 -noreset", "xlogo", "-geometry", "200x200+10+10"],
                               environment={"PATH": "/usr/bin:/bin", "LANG": "C", "HOME": "/nonexistent"})
        before = self.drawn()
        app.dump()
        app.restore()
        self.assertEqual(self.shot(), before)

    def test_a_display_outside(self):
        server = subprocess.Popen(["Xvfb", f":{self.display}", "-screen", "0", "320x240x24", "-nolisten", "tcp", "-noreset", "-auth",
                                   "/dev/null"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        self.assertTrue(wait_until(self.shot))
        app = self.application("", program=["/usr/bin/xlogo"], environment={"PATH": "/usr/bin:/bin",
                                                                            "DISPLAY": f":{self.display}", "LANG": "C"})
        self.drawn()
        app.dump(refused=["outside the tree", "Xvfb"])
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = SHIPPED
        app.dump(refused=["its windows live in an X server outside the tree", "xvfb-run", "50-desktop.conf"])
        self.assertTrue(alive(app.pid))


if __name__ == "__main__":
    run()
