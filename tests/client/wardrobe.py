#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""wardrobe.py FOLDER: a process with one of most kinds of things; makes FOLDER/ready and waits."""
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time

folder = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
log = open(f"{folder}/log", "a+", encoding="ascii")
gone = open(f"{folder}/gone", "w+", encoding="ascii")
gone.write("deleted")
gone.flush()
os.unlink(f"{folder}/gone")
tcp = socket.socket()
tcp.bind(("127.0.0.1", 0))
tcp.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind(f"{folder}/socket")
unix.listen()
pair, ends = socket.socketpair(), os.pipe()
memfd = os.memfd_create("cache")
os.write(memfd, b"x" * 5000)
poll = select.epoll()
poll.register(tcp)
event, timer = libc.eventfd(3, 0), libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
event_spec = (ctypes.c_byte * 64)()
timer_id = ctypes.c_int()
libc.timer_create(time.CLOCK_REALTIME, None, ctypes.byref(timer_id))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
threading.Thread(target=lambda: time.sleep(100000), daemon=True).start()
with open(f"{folder}/ready", "w", encoding="ascii"):
    pass
while True:
    time.sleep(100)
