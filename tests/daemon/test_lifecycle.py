# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --no-polkit
# env: CHECKPOINTD_IDLE_USEC=300000 CHECKPOINTD_LINGER_USEC=200000
"""How the service comes and goes: activation, idle exit, termination, what it leaves."""

import os
import signal
import time

from suite import *

root = Client()


def has_owner():
    return root.driver("NameHasOwner", "s", SERVICE)[0]


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def wake():
    """The service's pid; it stays until the subscriber is closed."""
    subscriber = Client()
    subscriber.do("Subscribe")
    return service_pid(root), subscriber


def test_is_activated_and_leaves_when_idle():
    assert not has_owner()
    pid, subscriber = wake()
    spawner = children(pid)[0]
    until(lambda: children(spawner), "an engine waits")
    engine = children(spawner)[0]
    subscriber.close()
    until(lambda: not has_owner(), "it gives its name up")
    until(lambda: gone(pid) and gone(spawner) and gone(engine), "all of it is gone")
    again, subscriber = wake()
    assert again != pid
    subscriber.close()


def test_ids_never_repeat():
    seen = []
    for i in range(3):
        pid, subscriber = wake()
        path = root.do("StartDump", target(), f"ok-id{i}", {})[0]
        seen.append(int(path.rsplit("/")[-1]))
        subscriber.close()
        until(lambda: gone(pid), "it leaves")
    assert sorted(set(seen)) == seen, seen


def test_stays_for_jobs_subscribers_and_finished_jobs():
    root.settle()
    root.signals.clear()
    path = root.do("StartDump", target(), "held-stays", {})[0]
    pid = service_pid(root)
    time.sleep(0.7)
    assert service_pid(root) == pid, "a job keeps it"
    root.do("Subscribe")
    waiter = root.start(SERVICE, path, JOB, "Wait", "")
    release("held-stays")
    assert root.wait(waiter)[0]["pages"] == 5
    assert root.wait_signal("JobRemoved", PATH).body == (path, "done"), "jobs that are over are forgotten in time"
    refuses("org.freedesktop.DBus.Error.UnknownObject", root.job, path, "Wait")
    time.sleep(0.7)
    assert service_pid(root) == pid, "a subscriber keeps it"
    root.do("Unsubscribe")
    until(lambda: gone(pid), "then it leaves")
    pid, subscriber = wake()
    time.sleep(0.7)
    assert service_pid(root) == pid
    subscriber.close()
    until(lambda: gone(pid), "a subscriber that left keeps nothing")


def test_stays_for_open_questions():
    polkit = Polkit("hang")
    client = Client(uid=NOBODY)
    serial = client.begin("Explain", target(NOBODY), {})
    polkit.until_asked()
    pid = service_pid(root)
    time.sleep(0.7)
    assert service_pid(root) == pid
    polkit.release("yes")
    assert polkit.run(client, serial)[0]
    until(lambda: gone(pid), "then it leaves")


def test_no_call_is_lost_around_the_exit():
    """Calls at every moment around the time of leaving are all answered."""
    instances, pid, i = set(), target(), 0
    while i < 20 or len(instances) <= 5:
        assert i < 200, f"it should have left now and then: {instances}"
        time.sleep((0.49 if i % 2 else 0.29) + 0.006 * (i % 20))
        if i % 2:
            assert root.do("ListPlugins") == ([],)
        else:
            assert root.do("Dump", pid, "ok-leaving", {"replace": ("b", True)})[0]["pages"] == 5
        try:
            instances.add(service_pid(root))
        except BusError:
            pass  # answered while it was already leaving
        i += 1


def test_terminate_cancels_and_answers():
    path = root.do("StartDump", target(), "held-term", {})[0]
    pid = service_pid(root)
    waiter = root.start(SERVICE, path, JOB, "Wait", "")
    root.do("ListJobs", {})  # answered after the call before it was taken
    os.kill(pid, signal.SIGTERM)
    refuses(E + "ShuttingDown", root.wait, waiter)
    until(lambda: gone(pid), "it ends")
    assert not [f for f in user_files(0) if f.startswith(".")]
    assert "held-term" not in root.names()


def test_killed_service_leaves_no_process_and_no_draft():
    path = root.do("StartDump", target(), "held-kill", {})[0]
    pid = service_pid(root)
    spawner = children(pid)[0]
    engines = children(spawner)
    assert [f for f in user_files(0) if f.startswith(".tmp-")]
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid) and gone(spawner) and all(gone(e) for e in engines), "the others follow")
    assert "held-kill" not in root.names()
    assert not [f for f in user_files(0) if f.startswith(".tmp-")], "the next instance cleans up"


def test_complete_dump_of_a_killed_service_is_kept():
    """Its application may be gone: what is complete on disk must never be thrown away."""
    images = f"{STORE}/0/.tmp-4711/images"
    until(lambda: not has_owner(), "it is not there")
    os.makedirs(images, 0o700)
    open(images + "/inventory.img", "w").close()
    assert "recovered-4711" in root.names()
    root.do("RemoveCheckpoint", "recovered-4711", {})


def test_dead_spawner_ends_the_service():
    pid, subscriber = wake()
    os.kill(children(pid)[0], signal.SIGKILL)
    until(lambda: gone(pid), "the service ends")
    subscriber.close()
    assert root.do("Dump", target(), "ok-again", {})[0]["pages"] == 5, "the next call starts it anew"


def test_store_is_made_private():
    until(lambda: not has_owner(), "it is not there")
    os.chmod(STORE, 0o755)
    _, subscriber = wake()
    subscriber.close()
    assert os.stat(STORE).st_mode & 0o777 == 0o700


main(globals())
