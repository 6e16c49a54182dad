# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --rules allow-own.rules
"""What the bus adds to a job: whole calls with an engine that answers at once. Run by
"meson test --benchmark bus-overhead"; figures are in docs/service.md."""

import statistics
import sys
import time

from suite import *

LIMIT_MS = 3.0


def measure(client, pause, n, **kwargs):
    pid, times = target(client.uid), []
    for i in range(n):
        time.sleep(pause)
        start = time.perf_counter()
        result = client.do("Dump", pid, "ok-bench", {})[0]
        times.append((time.perf_counter() - start) * 1e3)
        client.do("RemoveCheckpoint", "ok-bench", {})
    end_targets()
    return statistics.median(times), sorted(times)[int(n * 0.95)], result["total-usec"] / 1e3


worst = 0
for who, uid in (("root", None), ("a user, by polkit", NOBODY)):
    for how, pause, n in (("with pauses", 0.02, 150), ("back to back", 0, 300)):
        median, high, engine = measure(Client(uid=uid), pause, n)
        if uid is None:  # polkitd's own time is not ours
            worst = max(worst, median)
        print(f"{who}, {how}: median {median:.2f} ms, 95 % below {high:.2f} ms (in the job: {engine:.2f} ms)")
sys.exit(1 if worst > LIMIT_MS else 0)
