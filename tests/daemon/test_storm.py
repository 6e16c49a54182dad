# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --rules allow-own.rules
"""Everything at once: users who start, cancel, release and leave, engines that die. At the
end the service still works, every job has an end, and nothing is left lying about."""

import os
import random
import time

from suite import *

root = Client()
pick = random.Random(4711)
SECONDS = 6
KINDS = ["ok", "ok", "slow", "crash", "exit", "fail", "garbage", "deaf", "stubborn", "denied", "silent", "huge"]
EXPECTED = {E + n for n in ("Busy", "CheckpointExists", "EngineCrashed", "Cancelled", "NotSupported", "Failed", "NoSpace",
                            "NotPermittedTarget", "NoSuchProcess", "NoSuchJob", "NoSuchCheckpoint")}
EXPECTED |= {LIMITS, "org.freedesktop.DBus.Error.UnknownObject"}


def act(client, pids):
    """One random call, not waited for; its serial."""
    jobs = client.paths
    what = pick.random()
    if what < 0.45:
        options = {"replace": ("b", True)} if pick.random() < 0.7 else {}
        if pick.random() < 0.3:
            options["on-disconnect"] = ("s", "cancel")
        return client.begin(pick.choice(["StartDump", "Dump"]), pick.choice(pids), f"{pick.choice(KINDS)}-{pick.randint(0, 5)}", options)
    if what < 0.55:
        return client.begin(pick.choice(["Restore", "StartRestore"]), f"ok-{pick.randint(0, 5)}", {})
    if what < 0.6:
        return client.begin("Explain", pick.choice(pids), {})
    if what < 0.65:
        return client.begin(pick.choice(["Subscribe", "Unsubscribe"]))
    if what < 0.7:
        return client.begin("RemoveCheckpoint", f"ok-{pick.randint(0, 5)}", {})
    if what < 0.75 or not jobs:
        return client.begin("ListJobs", {})
    member = pick.choice(["Cancel", "Cancel", "Release", "Wait"])
    return client.start(SERVICE, pick.choice(jobs), JOB, member, SIGNATURES[member], *([{}] if member == "Cancel" else []))


def drain(client):
    """Every error is one of those that may be."""
    client.settle(0)
    for signal in client.take_signals("JobNew"):
        client.paths.append(signal.body[0])
    client.signals.clear()
    for serial, reply in list(client.replies.items()):
        del client.replies[serial]
        assert reply.kind == 2 or reply.error in EXPECTED, (reply.error, reply.body)


def connect(uid):
    client = Client(uid=uid)
    client.paths = []
    return client


def living_jobs():
    return {path: job["State"] for path, job in root.do("ListJobs", {"all": ("b", True)})[0] if job["State"] != "finished"}


def end_jobs():
    """Cancels what there is until nothing is left: a call that polkit was still asked about when the others were cancelled
    becomes a job only then, and some kinds never end by themselves. Only a service that stands still fails."""
    cancelled, before, moved = set(), None, time.monotonic()
    while (jobs := living_jobs()) or root.get(PATH, MANAGER, "JobsRunning") + root.get(PATH, MANAGER, "JobsQueued") > 0:
        if jobs != before:
            before, moved = jobs, time.monotonic()
        assert time.monotonic() < moved + PATIENCE, f"in {PATIENCE} s nothing became of {jobs}"
        for path in set(jobs) - cancelled:
            cancelled.add(path)
            try:
                root.job(path, "Cancel", {})
            except BusError as e:
                assert e.name in EXPECTED, e
        time.sleep(0.01)
    return cancelled


def test_storm():
    pids = {uid: [target(uid) for _ in range(6)] for uid in (0, NOBODY)}
    clients = [connect(uid) for uid in (0, NOBODY) * 3]
    root.do("ListPlugins")
    pid = service_pid(root)
    end, calls = time.monotonic() + SECONDS, 0
    while time.monotonic() < end or calls <= 300:
        i = pick.randrange(len(clients))
        act(clients[i], pids[clients[i].uid])
        calls += 1
        if pick.random() < 0.05:
            clients[i].close()
            clients[i] = connect(clients[i].uid)
        if pick.random() < 0.03:
            for engine in children(spawner_pid(root)):
                if pick.random() < 0.3:
                    try:
                        os.kill(engine, 9)
                    except ProcessLookupError:
                        pass
        time.sleep(pick.random() * 0.01)
        for client in clients:
            drain(client)
    assert service_pid(root) == pid, "the service died"
    end_jobs()
    for _, job in root.do("ListJobs", {"all": ("b", True)})[0]:
        assert job["State"] == "finished" and job["Result"] in ("done", "failed", "canceled"), job
    for uid in (0, NOBODY):
        assert not [f for f in user_files(uid) if f.startswith(".")], user_files(uid)
    until(lambda: len(children(spawner_pid(root))) <= 1, "only the engine for the next job is left")
    assert root.do("Dump", target(), "ok-after", {})[0]["pages"] == 5


main(globals())
