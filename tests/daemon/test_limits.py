# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --rules allow-own.rules
# env: CHECKPOINTD_IDLE_USEC=100000 CHECKPOINTD_LINGER_USEC=0 CHECKPOINTD_FAKE_UNUSABLE=1
"""The administrator's limits: the configuration, quotas of users, a disk that is full."""

import os
import subprocess

from suite import *

CONFIG = os.environ["CHECKPOINTD_CONFIG"]
root = Client()


def restart():
    until(lambda: not root.driver("NameHasOwner", "s", SERVICE)[0], "it leaves")


def configure(text):
    restart()
    with open(CONFIG, "w") as f:
        f.write(text)
    os.chmod(CONFIG, 0o644)


def does_not_start(says):
    try:
        root.do("ListPlugins")
        raise AssertionError("it started")
    except BusError as e:
        assert "Spawn" in e.name or "NoReply" in e.name or "TimedOut" in e.name, e
    with open(os.environ["WITH_BUS_DIR"] + "/service.log") as f:
        assert says in f.read()


def test_bad_configurations_are_refused():
    for text, says in (("[limits]\nno-such=1\n", "no-such"), ("[limits]\njobs-running=many\n", "many"),
                       ("[limits]\njobs-running=0\n", "must not be 0"), ("[limits]\nbytes-per-user=99999999T\n", "99999999T"),
                       ("nonsense", "nonsense")):
        configure(text)
        does_not_start(says)
    configure("[limits]\n")
    os.chmod(CONFIG, 0o666)
    does_not_start("writable by others")


def test_settings_hold():
    configure("[limits]\njobs-running=3\njobs-per-user=2\ndurable=yes\n")
    assert root.get(PATH, MANAGER, "MaxJobsRunning") == 3 and root.get(PATH, MANAGER, "MaxJobsPerUser") == 2
    assert "durable=1" in root.do("Dump", target(), "echo-durable", {})[0]["options"]


def test_unusable_system_is_told():
    usable, report = root.do("Check", {})
    assert usable is False and report["usable"] == 0


def test_number_of_checkpoints():
    configure("[limits]\ncheckpoints-per-user=2\n")
    nobody = Client(uid=NOBODY)
    for name in ("ok-1", "ok-2"):
        nobody.do("Dump", target(NOBODY), name, {})
    refuses(LIMITS, nobody.do, "Dump", target(NOBODY), "ok-3", {}, says="checkpointd.conf")
    nobody.do("Dump", target(NOBODY), "ok-2", {"replace": ("b", True)})
    nobody.do("RemoveCheckpoint", "ok-1", {})
    nobody.do("Dump", target(NOBODY), "ok-3", {})
    for name in ("ok-1", "ok-2", "ok-3"):
        root.do("Dump", target(), name, {})


def test_bytes_of_a_user():
    configure("[limits]\nbytes-per-user=100K\n")
    nobody = Client(uid=NOBODY)
    for name in nobody.names():
        nobody.do("RemoveCheckpoint", name, {})
    # announced while it still runs: cancelled, the application goes on
    refuses(LIMITS, nobody.do, "Dump", target(NOBODY), "big-1", {}, says="bytes-per-user")
    assert nobody.names() == []
    made = 0
    while made < 10:
        try:
            nobody.do("Dump", target(NOBODY), f"ok-b{made}", {})
            made += 1
        except BusError as e:
            assert e.name == LIMITS, e
            break
    assert 2 <= made <= 4, made


def test_full_disk():
    restart()
    configure("[limits]\nkeep-free-bytes=64K\n")
    restart()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128K,mode=700", "tmpfs", STORE], check=True)
    try:
        assert root.do("Dump", target(), "ok-fits", {})[0]["pages"] == 5
        refuses(E + "NoSpace", root.do, "Dump", target(), "huge-1", {}, says="free")
        with open(STORE + "/filler", "wb") as f:
            f.write(bytes(72 * 1024))
        refuses(E + "NoSpace", root.do, "Dump", target(), "ok-full", {}, says="keep-free-bytes")
        os.unlink(STORE + "/filler")
        configure("[limits]\nkeep-free-bytes=0\n")
        with open(STORE + "/filler", "wb") as f:
            f.write(bytes(88 * 1024))
        refuses(E + "NoSpace", root.do, "Dump", target(), "ok-full", {})
        assert root.names() == ["ok-fits"] and sorted(os.listdir(STORE + "/0")) == ["ok-fits"]
    finally:
        restart()
        subprocess.run(["umount", STORE], check=True)


def test_store_that_disappears():
    configure("[limits]\n")
    client = Client()
    client.do("Subscribe")
    os.rename(STORE, STORE + ".away")
    try:
        assert client.do("ListCheckpoints", {})[0], "the service holds its store, not its name"
    finally:
        os.rename(STORE + ".away", STORE)
    path = client.do("StartDump", target(), "held-vanish", {})[0]
    import shutil
    for name in user_files(0):
        if name.startswith(".tmp-"):
            shutil.rmtree(f"{STORE}/0/{name}")
    waiter = client.start(SERVICE, path, JOB, "Wait", "")
    client.do("ListJobs", {})  # answered after the call before it was taken: the job is forgotten with its end
    release("held-vanish")
    refuses(E + "Failed", client.wait, waiter)
    assert "held-vanish" not in client.names()
    client.close()


main(globals())
