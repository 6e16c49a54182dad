# SPDX-License-Identifier: LGPL-2.1-or-later
"""threads.py FILE: 20 threads and a heap of 100 MiB; a numbered line whenever all threads have counted on."""
import sys
import threading
import time
import zlib

heap = bytearray((bytes(range(256)) * 4096) * 100)
checksum = zlib.crc32(heap)
counts = [0] * 20
bad = 0


def count(k):
    while True:
        counts[k] += 1
        time.sleep(0.01)


for k in range(20):
    threading.Thread(target=count, args=(k,), daemon=True).start()
with open(sys.argv[1], "w", encoding="ascii") as out:
    last = list(counts)
    line = 0
    while True:
        while any(a == b for a, b in zip(counts, last)):
            time.sleep(0.005)
        last = list(counts)
        line += 1
        if line % 10 == 0 and zlib.crc32(heap) != checksum:
            bad += 1
        print(f"{line} bad={bad}", file=out, flush=True)
