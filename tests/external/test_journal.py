#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real journald, in a /run of its own, and the shipped rules: what a service prints, and what it logs."""
import ctypes
import os
import shutil
import subprocess
import sys

from outside import Case, PYTHON, run, wait_until

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "engine", "policy", "external.d")
JOURNALD = "/lib/systemd/systemd-journald"

SERVICE = """
import logging, logging.handlers, os, sys, time
base = sys.argv[1]
handler = logging.handlers.SysLogHandler(address="/run/systemd/journal/dev-log")
handler.ident = "by-syslog: "
logger = logging.getLogger()
logger.addHandler(handler)
open(base + "/ready", "w").close()
n = 0
while True:
    if os.path.exists(base + "/speak"):
        os.unlink(base + "/speak")
        n += 1
        print("printed", n, flush=True)
        logger.warning("logged %d", n)
        open(base + "/spoken", "w").close()
    time.sleep(0.01)
"""


class Journal(Case):
    def setUp(self):
        super().setUp()
        if not os.path.exists(JOURNALD):
            self.skipTest("there is no journald")
        shutil.rmtree("/run/systemd/journal", ignore_errors=True) # the last one's sockets, at which nobody listens
        for path in ("/run/systemd/journal", "/run/log/journal"):
            os.makedirs(path, exist_ok=True)
        self.journald = subprocess.Popen([JOURNALD], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)
        self.addCleanup(self.journald.wait)
        self.addCleanup(self.journald.terminate)
        self.assertTrue(wait_until(lambda: os.path.exists("/run/systemd/journal/dev-log") and
                                   os.path.exists("/run/systemd/journal/stdout")))

    def lines(self):
        done = subprocess.run(["journalctl", "-D", "/run/log/journal", "--no-pager", "-o", "cat"], capture_output=True,
                              text=True, check=False)
        return [x for x in done.stdout.splitlines() if x.startswith(("printed", "logged"))]

    def entry(self, field, text):
        done = subprocess.run(["journalctl", "-D", "/run/log/journal", "--no-pager", "-o", "json", f"MESSAGE={text}",
                               "--output-fields=" + field], capture_output=True, text=True, check=False)
        return done.stdout

    def speak(self, directory):
        open(directory + "/speak", "w").close()
        self.assertTrue(wait_until(lambda: os.path.exists(directory + "/spoken")))
        os.unlink(directory + "/spoken")

    def test_a_service(self):
        directory = self.make_directory("service")
        app = self.application("", program=["/usr/bin/systemd-cat", "-t", "the-service", "-p", "notice", PYTHON, "-I", "-c", SERVICE, directory])
        self.assertTrue(wait_until(lambda: os.path.exists(directory + "/ready")))
        self.speak(directory)
        self.assertTrue(wait_until(lambda: sorted(self.lines()) == ["logged 1", "printed 1"]), self.lines())
        app.dump(refused="/run/systemd/journal/stdout")
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = SHIPPED
        for life in (2, 3):
            app.dump()
            app.restore()
            self.speak(directory)
            self.assertTrue(wait_until(lambda: len(self.lines()) == 2 * life), self.lines())
        self.assertEqual(sorted(self.lines()), [f"{what} {n}" for what in ("logged", "printed") for n in (1, 2, 3)])
        self.assertIn('"SYSLOG_IDENTIFIER":"the-service"', self.entry("SYSLOG_IDENTIFIER", "printed 3"))
        self.assertIn('"PRIORITY":"5"', self.entry("PRIORITY", "printed 3"))
        self.assertIn(f'"_PID":"{app.pid}"', self.entry("_PID", "printed 3"))

    def test_journald_does_not_tell(self):
        """Without what it keeps of its streams, the name is the process's, as a rule with send= says it, too."""
        directory = self.make_directory("service")
        app = self.application("", program=["/usr/bin/systemd-cat", "-t", "the-service", PYTHON, "-I", "-c", SERVICE, directory])
        self.assertTrue(wait_until(lambda: os.path.exists(directory + "/ready")))
        self.environment["CHECKPOINTD_EXTERNAL_DIR"] = SHIPPED
        os.rename("/run/systemd/journal/streams", "/run/systemd/journal/elsewhere")
        app.dump()
        os.rename("/run/systemd/journal/elsewhere", "/run/systemd/journal/streams")
        app.restore()
        before = len(self.lines())
        self.speak(directory)
        self.assertTrue(wait_until(lambda: len(self.lines()) == before + 2), self.lines())
        self.assertIn('"SYSLOG_IDENTIFIER":"python3"', self.entry("SYSLOG_IDENTIFIER", "printed 1"))
        app.end()


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    # A mount namespace of our own (CLONE_NEWNS), whose /run is empty; nothing of it is seen outside (MS_REC | MS_PRIVATE).
    if libc.unshare(0x00020000) or libc.mount(None, b"/", None, 0x4000 | 0x40000, None) or \
            libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755"):
        sys.exit("no mount namespace: " + os.strerror(ctypes.get_errno()))
    run()
