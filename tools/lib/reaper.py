#!/usr/bin/python3 -I
# SPDX-License-Identifier: LGPL-2.1-or-later
"""reaper.py COMMAND…: runs COMMAND as the parent of all orphans beneath it.

A restored application is nobody's child; where PID 1 is a container's and reaps when it finds the
time, it would stay a zombie for seconds after the next dump, and hold the number that its restore
needs. Ends with COMMAND; COMMAND ends if we are killed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None, use_errno=True)

signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
command = os.fork()
if command == 0:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    os.execvp(sys.argv[1], sys.argv[1:])

signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
for number in signals:
    signal.signal(number, lambda got, frame: os.kill(command, got))
while True:
    pid, status = os.wait()
    if pid == command:
        sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
