# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --rules allow-own.rules
"""Dump, restore and the rest through the real bus and the real polkitd, as root and as
users; the engine is the fake one, which does what the checkpoint's name says."""

import os
import subprocess
import time

from suite import *

root = Client()
nobody = Client(uid=NOBODY)


def dump_names(client, names, **options):
    for name in names:
        client.do("Dump", target(client.uid), name, options)


def forget_all(client):
    for name in client.names():
        client.do("RemoveCheckpoint", name, {})


def test_root_dumps_restores_and_explains():
    pid = target()
    result = root.do("Dump", pid, "ok-first", {})[0]
    assert result["pages"] == 5 and result["pid"] == pid and result["name"] == "ok-first" and result["usable"] is True
    assert result["real"] == 0.5 and "total-usec" in result
    assert root.do("Restore", "ok-first", {})[0]["pages"] == 5
    finding = root.do("Explain", pid, {})[0][0]
    assert finding == {"object": "pid 1 fd 3: tcp socket", "reason": "it is connected",
                       "cure": "option tcp-established", "pid": 1}, finding
    path = [p for p, job in root.jobs().items() if job["Operation"] == "explain"][0]
    assert root.job(path, "Wait")[0]["findings"] == [finding]
    usable, report = root.do("Check", {})
    assert usable is True and report["pages"] == 5


def test_engine_is_told_who_asks_and_gets_descriptors():
    result = root.do("Dump", target(), "echo-root", {"stop": ("b", True), "timeout": ("t", 1234567)})[0]
    assert result["caller"].startswith("uid=0 any=1"), result
    assert result["options"] == "run=0 stop=1 shell=0 durable=0 hangup=1 timeout=1234567", result
    assert result["fds"] == "2 first=1 dir=1" and result["self"] == "umask=077 leak=0 ignored=0 session=1", result
    options = {"leave-running": ("b", True), "shell-job": ("b", True), "durable": ("b", True)}
    result = nobody.do("Dump", target(NOBODY), "echo-nobody", options)[0]
    assert result["caller"].startswith("uid=65534 any=0"), result
    assert result["options"] == "run=1 stop=0 shell=1 durable=1 hangup=1 timeout=0", result
    assert nobody.do("Restore", "echo-nobody", {})[0]["fds"] == "1 first=1 dir=1"


def test_any_user_is_refused_what_is_not_theirs():
    other = Client(uid=OTHER)
    mine, roots = target(NOBODY), target()
    for member in ("Dump", "StartDump"):
        refuses(INTERACTION, nobody.do, member, roots, "ok-x", {}, says="dump-any")
        refuses(INTERACTION, other.do, member, mine, "ok-x", {}, says="dump-any")
    refuses(INTERACTION, nobody.do, "Explain", roots, {}, says="dump-any")
    refuses(INTERACTION, other.do, "Dump", target(OTHER), "ok-x", {}, says="dump-own")
    # Allowing to ask changes nothing where nobody is there to be asked.
    refuses(DENIED, nobody.do, "Dump", roots, "ok-x", {}, says="dump-any", flags=ALLOW_INTERACTIVE)
    assert "ok-x" not in user_files(NOBODY) + user_files(OTHER)


def test_targets_that_nobody_may_dump():
    service = service_pid(root)
    spawner = spawner_pid(root)
    denied = E + "NotPermittedTarget"
    until(lambda: children(spawner), "an engine waits")
    for pid, why in ((1, "first process"), (2, "kernel thread"), (service, "itself"), (spawner, "itself"),
                     (children(spawner)[0], "itself")):
        for member, args in (("Dump", (pid, "ok-t", {})), ("Explain", (pid, {}))):
            e = refuses(denied, root.do, member, *args, says=why)
            assert f"pid {pid}" in e.text, e
    with open(f"/proc/{service}/stat") as f:
        parent = int(f.read().rsplit(")")[1].split()[1])
    if parent != 1:
        refuses(denied, root.do, "Dump", parent, "ok-t", {}, says="holds the checkpoint service")
    for pid in (0, 4194305, 0x7fffffff, 0x80000000, 0xffffffff):
        refuses(E + "NoSuchProcess", root.do, "Dump", pid, "ok-t", {}, says="pid")
    zombie = target(command=("true",))
    until(lambda: open(f"/proc/{zombie}/stat").read().split()[2] == "Z", "a zombie")
    refuses(E + "NoSuchProcess", root.do, "Dump", zombie, "ok-t", {})
    threads = target(command=("/usr/bin/python3", "-c", "import threading,time;"
                              "threading.Thread(target=time.sleep,args=(99,)).start()"))
    until(lambda: len(os.listdir(f"/proc/{threads}/task")) == 2, "a thread")
    tid = max(int(t) for t in os.listdir(f"/proc/{threads}/task"))
    refuses(E + "NoSuchProcess", root.do, "Dump", tid, "ok-t", {}, says="thread")


def test_names():
    pid = target()
    for bad in ("", ".", "..", ".tmp-1", "a/b", "../x", "a b", "ä", "x" * 129, "a\nb", "a$b"):
        for member, args in (("Dump", (pid, bad, {})), ("StartDump", (pid, bad, {})), ("Restore", (bad, {})),
                             ("DescribeCheckpoint", (bad, {})), ("RemoveCheckpoint", (bad, {}))):
            refuses(INVALID, root.do, member, *args)
    for good in ("ok" + "x" * 126, "ok.A-z_0+9@h:1"):
        root.do("Dump", pid, good, {})
        assert good in root.names()
        root.do("RemoveCheckpoint", good, {})
    refuses(E + "NoSuchCheckpoint", root.do, "Restore", "ok-none", {}, says="ok-none")
    refuses(E + "NoSuchCheckpoint", root.do, "DescribeCheckpoint", "ok-none", {})
    refuses(E + "NoSuchCheckpoint", root.do, "RemoveCheckpoint", "ok-none", {})


def test_existing_name_is_kept_unless_replaced():
    pid = target()
    root.do("Dump", pid, "ok-keep", {})
    created = root.do("DescribeCheckpoint", "ok-keep", {})[0]["created"]
    refuses(E + "CheckpointExists", root.do, "Dump", pid, "ok-keep", {}, says="replace")
    root.do("Dump", pid, "ok-keep", {"replace": ("b", True)})
    assert root.do("DescribeCheckpoint", "ok-keep", {})[0]["created"] > created
    assert not [f for f in user_files(0) if f.startswith(".")]


def test_failed_replacement_leaves_the_old_checkpoint():
    os.makedirs(f"{STORE}/0/crash-old/images", 0o700)
    with open(f"{STORE}/0/crash-old/images/inventory.img", "w") as f:
        f.write("old")
    refuses(E + "EngineCrashed", root.do, "Dump", target(), "crash-old", {"replace": ("b", True)}, says="signal 11")
    with open(f"{STORE}/0/crash-old/images/inventory.img") as f:
        assert f.read() == "old"
    assert not [f for f in user_files(0) if f.startswith(".")]
    root.do("RemoveCheckpoint", "crash-old", {})


def test_engines_that_fail_leave_nothing():
    crashed = E + "EngineCrashed"
    for name, error, says in (("crash", crashed, "signal 11"), ("exit", crashed, "status 3"), ("garbage", crashed, "signal 9"),
                              ("fail", E + "NotSupported", "tcp socket"), ("silent", E + "Failed", "inventory"),
                              ("denied", E + "NotPermittedTarget", "setuid"), ("huge", E + "NoSpace", "bytes")):
        refuses(error, root.do, "Dump", target(), name + "-1", {}, says=says)
        assert name + "-1" not in root.names()
    refuses(E + "NotPermittedTarget", nobody.do, "Dump", target(NOBODY), "denied-1", {}, says="dump-any")
    refuses(crashed, root.do, "Explain", target(), {"timeout": ("t", 2)})
    assert not [f for f in user_files(0) if f.startswith(".")], user_files(0)


def test_options_are_checked():
    pid = target()
    for options, says in (({"no-such": ("b", True)}, "no-such"), ({"stop": ("s", "yes")}, "stop"),
                          ({"timeout": ("u", 5)}, "timeout"), ({"timeout": ("t", 0)}, "timeout"),
                          ({"on-disconnect": ("s", "explode")}, "on-disconnect"), ({"owner": ("u", 0)}, "owner"),
                          ({"token": ("s", "a b")}, "token"), ({"token": ("s", "")}, "token"),
                          ({"all": ("b", True)}, "all"), ({"stop": ("b", True), "leave-running": ("b", True)}, "stop")):
        refuses(INVALID, root.do, "Dump", pid, "ok-o", options, says=says)
    twice = [("stop", ("b", True)), ("stop", ("b", True))]
    refuses(INVALID, root.do, "Dump", pid, "ok-o", twice, says="twice")
    refuses(INVALID, root.do, "Restore", "ok-o", {"leave-running": ("b", True)}, says="leave-running")
    refuses(INVALID, root.do, "ListJobs", {"stop": ("b", True)}, says="stop")
    refuses(INVALID, root.do, "ListJobs", {"all": ("b", True), "owner": ("u", 1)}, says="owner")
    assert "ok-o" not in root.names()


def test_later_options_are_refused_not_ignored():
    later = {"parent": ("s", "x"), "track-memory": ("b", True), "snapshot": ("b", True), "compress": ("s", "zstd")}
    dangerous = {"cgroup": ("s", "/x")}
    for name, value in {**later, **dangerous}.items():
        refuses(E + "NotSupported", root.do, "Dump", target(), "ok-l", {name: value}, says=name)
    for name, value in later.items():
        refuses(E + "NotSupported", nobody.do, "Dump", target(NOBODY), "ok-l", {name: value}, says=name)
    for name, value in dangerous.items():
        refuses(INTERACTION, nobody.do, "Dump", target(NOBODY), "ok-l", {name: value}, says="privileged-options")
        refuses(E + "OptionNotPermitted", nobody.do, "Dump", target(NOBODY), "ok-l", {name: value}, says=name,
                flags=ALLOW_INTERACTIVE)
    for name, value in {"external": ("as", ["unix:action=close"]), "ext-unix-sk": ("b", True), "tcp-established": ("b", True),
                        "link-remap": ("b", True)}.items():
        refuses(INTERACTION, nobody.do, "Dump", target(NOBODY), "ok-l", {name: value}, says="privileged-options")
        refuses(E + "OptionNotPermitted", nobody.do, "Dump", target(NOBODY), "ok-l", {name: value}, says=name,
                flags=ALLOW_INTERACTIVE)
    for value in ([""], ["x" * 70000], ["x"] * 300):
        refuses(INVALID, root.do, "Dump", target(), "ok-l", {"external": ("as", value)}, says="external")
    root.do("Dump", target(), "ok-l", {"compress": ("s", "none"), "external": ("as", ["unix:action=close"]),
                                       "ext-unix-sk": ("b", True)})
    refuses(E + "NotSupported", root.do, "Restore", "ok-l", {"lsm-profile": ("s", "x")}, says="lsm-profile")
    refuses(E + "NotSupported", root.do, "PreDump", target(), "ok-l2", {})
    refuses(E + "NotSupported", root.do, "StartPreDump", target(), "ok-l2", {})


def test_checkpoints_belong_to_users():
    dump_names(nobody, ["ok-mine"])
    assert nobody.names() == [n for n in user_files(NOBODY)] and "ok-mine" in nobody.names()
    assert "ok-mine" not in root.names()
    assert "ok-mine" in root.names(owner=("u", NOBODY)) and "ok-mine" in root.names(all=("b", True))
    description = nobody.do("DescribeCheckpoint", "ok-mine", {})[0]
    assert description["owner"] == NOBODY and description["comm"] == "sleep" and description["complete"] is True
    assert description["pages"] == 5 and description["disk-bytes"] > 5 * 4096
    other = Client(uid=OTHER)
    refuses(E + "NoSuchCheckpoint", other.do, "DescribeCheckpoint", "ok-mine", {})
    theirs = {"owner": ("u", NOBODY)}
    refuses(INTERACTION, other.do, "DescribeCheckpoint", "ok-mine", theirs, says="manage-any")
    refuses(INTERACTION, other.do, "RemoveCheckpoint", "ok-mine", theirs, says="manage-any")
    refuses(INTERACTION, other.do, "Restore", "ok-mine", theirs, says="restore-any")
    refuses(INTERACTION, other.do, "ListCheckpoints", theirs, says="manage-any")
    refuses(INTERACTION, other.do, "ListCheckpoints", {"all": ("b", True)}, says="manage-any")
    refuses(INTERACTION, other.do, "ListJobs", {"all": ("b", True)}, says="manage-any")
    # whether it exists is not told either
    refuses(INTERACTION, other.do, "DescribeCheckpoint", "ok-none", theirs, says="manage-any")
    assert root.do("Restore", "ok-mine", theirs)[0]["name"] == "ok-mine"
    root.do("RemoveCheckpoint", "ok-mine", theirs)
    assert "ok-mine" not in nobody.names()


def test_description_tells_what_the_images_hold():
    dump_names(nobody, ["ok-inside", "ok-damaged", "ok-broken", "ok-many", "ok-fat"])
    watcher = Client(uid=NOBODY)
    watcher.do("Subscribe")
    inside = nobody.do("DescribeCheckpoint", "ok-inside", {})[0]
    assert inside["tasks"] == [{"pid": 7, "comm": "a\ufffd", "pages-bytes": 1 << 40}], inside["tasks"]
    assert inside["files"] == [{"pid": 7, "fd": (1 << 32) - 1, "path": "pipe:3"}], inside["files"]
    assert inside["mappings"] == [{"pid": 7, "start": 0x400000}], inside["mappings"]
    assert inside["pages"] == 5 and inside["truncated"] is False and "images-error" not in inside, inside
    path = watcher.wait_signal("JobNew").body[0]
    assert watcher.wait_signal("JobRemoved").body == (path, "done") and path not in nobody.jobs()
    for name, says in (("ok-damaged", "core-7.img"), ("ok-broken", "signal 11")):
        meta = nobody.do("DescribeCheckpoint", name, {})[0]
        assert says in meta["images-error"] and meta["pages"] == 5 and meta["comm"] == "sleep", meta
        assert not {"tasks", "files", "mappings", "truncated"} & set(meta), meta
    many = nobody.do("DescribeCheckpoint", "ok-many", {})[0]
    assert many["truncated"] is True and len(many["tasks"]) == 20000 and many["files"] == [], len(many["tasks"])
    fat = nobody.do("DescribeCheckpoint", "ok-fat", {})[0]
    assert fat["truncated"] is True and 1900 < len(fat["tasks"]) < 2100, len(fat["tasks"])


def test_description_waits_for_nobody_and_stops_nobody():
    release("held-inside")
    dump_names(root, ["held-inside"])
    hold("held-inside")
    path = root.do("StartRestore", "held-inside", {})[0]
    assert len(root.do("DescribeCheckpoint", "held-inside", {})[0]["tasks"]) == 1, "also while a job works on it"
    assert root.get(path, JOB, "State") == "running"
    release("held-inside")
    root.job(path, "Wait")
    os.unlink(f"{STORE}/0/held-inside/images/inventory.img")
    incomplete = root.do("DescribeCheckpoint", "held-inside", {})[0]
    assert incomplete["complete"] is False and incomplete["images-error"] and "tasks" not in incomplete, incomplete
    root.do("RemoveCheckpoint", "held-inside", {})


def test_store_is_closed_to_users():
    dump_names(nobody, ["ok-closed"])
    for path in ("", f"/{NOBODY}", f"/{NOBODY}/ok-closed", f"/{NOBODY}/ok-closed/images/inventory.img"):
        run = subprocess.run(["ls", "-d", STORE + path + ("/." if os.path.isdir(STORE + path) else "")],
                             user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True)
        assert run.returncode != 0 and b"denied" in run.stderr, (path, run)
    for folder, _, files in os.walk(STORE):
        for path in [folder] + [os.path.join(folder, f) for f in files]:
            st = os.lstat(path)
            assert st.st_uid == 0 and st.st_mode & 0o077 == 0, path


def test_start_wait_release():
    path = root.do("StartDump", target(), "held-start", {"token": ("s", "mine")})[0]
    assert root.get(path, JOB, "State") == "running"
    busy = root.get_all(path, JOB)
    assert busy["Operation"] == "dump" and busy["Name"] == "held-start" and busy["OwnerUID"] == 0 and busy["Cancelable"]
    release("held-start")
    assert root.job(path, "Wait")[0]["token"] == "mine"
    assert root.job(path, "Wait")[0]["pages"] == 5, "a finished job answers at once"
    done = root.get_all(path, JOB)
    assert done["State"] == "finished" and done["Result"] == "done" and not done["Cancelable"], done
    assert done["Progress"] == 1.0 and done["ProgressValid"] is True and done["BytesDone"] == 1000000
    assert root.jobs()[path]["token"] == "mine"
    root.job(path, "Release")
    refuses("org.freedesktop.DBus.Error.UnknownObject", root.job, path, "Wait")
    refuses("org.freedesktop.DBus.Error.UnknownObject", root.get, path, JOB, "State")
    path = root.do("StartRestore", "held-start", {})[0]
    root.job(path, "Wait")
    path = root.do("StartDump", target(), "crash-start", {})[0]
    refuses(E + "EngineCrashed", root.job, path, "Wait")
    failed = root.get_all(path, JOB)
    assert failed["Result"] == "failed" and failed["ErrorName"] == E + "EngineCrashed" and "signal 11" in failed["ErrorMessage"]


def fraction_of(signal, path):
    """The progress a job's signal tells, if it is neither none nor all."""
    told = signal.body[1] if signal.member == "PropertiesChanged" and signal.path == path else {}
    return told.get("ProgressValid") and 0 < told["Progress"] < 1


def test_signals_are_for_owner_and_subscribers_only():
    owner, watcher, stranger, subscribed = Client(uid=NOBODY), Client(), Client(uid=OTHER), Client(uid=OTHER)
    watcher.do("Subscribe")
    watcher.do("Subscribe")
    subscribed.do("Subscribe")
    for c in (stranger, subscribed):
        c.driver("AddMatch", "s", "type='signal'")
    began = time.monotonic()
    path = owner.do("StartDump", target(NOBODY), "held-signals", {"token": ("s", "t1")})[0]
    for c in (owner, watcher):
        until(lambda: c.pump(0.1) is not None and len([s for s in c.signals if fraction_of(s, path)]) > 3, "progress is told")
    release("held-signals")
    new = watcher.wait_signal("JobNew")
    assert new.body[0] == path and new.body[1]["token"] == "t1" and new.body[1]["State"] == "running"
    for c in (owner, watcher):
        finished = c.wait_signal("Finished", path)
        assert finished.body[0] == "done" and finished.body[1]["pages"] == 5
        c.settle()
        handled = c.take_signals("ObjectHandled", path)
        assert [h.body for h in handled] == [("", "pipe", 7, "dumped", {})]
        assert [s.body for s in c.take_signals("LogMessage", path)] == [(6, "a line")]
        changes = [s.body[1] for s in c.take_signals("PropertiesChanged", path)]
        most = 10 * (time.monotonic() - began) + 10
        assert 5 <= len(changes) <= most, f"ten a second at most, got {len(changes)}"
        seen = [s["State"] for s in changes if "State" in s]
        assert seen[-1] == "finished" and seen[0] == "running", seen
        fractions = [s["Progress"] for s in changes if s.get("ProgressValid")]
        assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) >= 4, fractions
        valid = [s for s in changes if s.get("ProgressValid") and 0 < s["Progress"] < 1]
        assert valid[-1]["BytesTotal"] == 1000000 and valid[-1]["ExpectedEndTime"] > 0, valid[-1]
    owner.job(path, "Release")
    assert watcher.wait_signal("JobRemoved").body == (path, "done")
    counts = [s.body[1] for s in watcher.take_signals("PropertiesChanged", PATH)]
    assert {"JobsRunning": 1, "JobsQueued": 0} in counts and {"JobsRunning": 0, "JobsQueued": 0} in counts, counts
    for c in (stranger, subscribed):
        c.settle()
        seen = [s for s in c.signals if s.path.startswith(path) or s.member in ("JobNew", "JobRemoved")]
        assert not seen, [(s.path, s.member) for s in seen]
    watcher.do("Unsubscribe")
    root.do("Dump", target(), "ok-unheard", {})
    watcher.settle()
    assert not watcher.take_signals("JobNew")


def test_failure_tells_findings_by_signal():
    owner = Client()
    refuses(E + "NotSupported", owner.do, "Dump", target(), "fail-findings", {})
    details = owner.wait_signal("Finished").body
    assert details[0] == "failed" and details[1]["error-name"] == E + "NotSupported"
    assert len(details[1]["findings"]) == 2 and details[1]["findings"][1]["kind"] == "fd", details


def test_jobs_are_private():
    path = root.do("StartDump", target(), "held-private", {})[0]
    for call in ((nobody.job, path, "Wait"), (nobody.job, path, "Cancel", {}), (nobody.job, path, "Release"),
                 (nobody.get, path, JOB, "State"), (nobody.get_all, path, JOB), (nobody.get_all, path, "")):
        refuses(INTERACTION, *call, says="manage-any")
    assert path not in nobody.jobs() and path in root.jobs()
    refuses(INVALID, root.get, path, JOB, "NoSuch")
    root.job(path, "Cancel", {})
    refuses(E + "Cancelled", root.job, path, "Wait")


def test_cancel():
    for name, member in (("held-c", "StartDump"), ("deaf-c", "StartDump"), ("stubborn-c", "StartDump")):
        path = root.do(member, target(), name, {})[0]
        waiter = root.start(SERVICE, path, JOB, "Wait", "")
        refuses(INVALID, root.job, path, "Cancel", {"force": ("b", True)}, says="force")
        root.job(path, "Cancel", {})
        refuses(E + "Cancelled", root.wait, waiter)
        job = root.get_all(path, JOB)
        assert job["Result"] == "canceled" and job["State"] == "finished" and job["ErrorName"] == E + "Cancelled", job
        root.job(path, "Cancel", {})
        assert name not in root.names()
    assert not [f for f in user_files(0) if f.startswith(".")]


def test_one_job_per_tree_and_per_name():
    pid = target()
    path = root.do("StartDump", pid, "held-one", {})[0]
    refuses(E + "Busy", root.do, "Dump", pid, "ok-two", {}, says=str(pid))
    refuses(E + "Busy", root.do, "Explain", pid, {})
    refuses(E + "Busy", root.do, "Dump", target(), "held-one", {}, says="held-one")
    release("held-one")
    root.job(path, "Wait")
    hold("held-one")
    tree = target(command=("sh", "-c", "sleep 1000 & wait"))
    until(lambda: children(tree), "a child")
    for outer, inner in ((tree, children(tree)[0]), (children(tree)[0], tree)):
        path = root.do("StartDump", outer, "held-tree", {})[0]
        refuses(E + "Busy", root.do, "Dump", inner, "ok-tree", {}, says="tree")
        root.job(path, "Cancel", {})
        refuses(E + "Cancelled", root.job, path, "Wait")
    path = root.do("StartRestore", "held-one", {})[0]
    refuses(E + "Busy", root.do, "Restore", "held-one", {})
    refuses(E + "Busy", root.do, "RemoveCheckpoint", "held-one", {})
    refuses(E + "Busy", root.do, "Dump", target(), "held-one", {"replace": ("b", True)})
    release("held-one")
    root.job(path, "Wait")


def test_queue_and_limits():
    client = Client(uid=NOBODY)
    running = client.get(PATH, MANAGER, "MaxJobsRunning")
    most = client.get(PATH, MANAGER, "MaxJobsPerUser")
    assert running == min(4, os.cpu_count()) and most == 8
    paths = [client.do("StartDump", target(NOBODY), f"held-q{i}", {})[0] for i in range(most)]
    states = [client.get(p, JOB, "State") for p in paths]
    assert states == ["running"] * running + ["queued"] * (most - running), states
    assert client.get(PATH, MANAGER, "JobsRunning") == running
    assert client.get(PATH, MANAGER, "JobsQueued") == most - running
    refuses(LIMITS, client.do, "Dump", target(NOBODY), "held-q9", {}, says="Too many")
    behind = root.do("StartDump", target(), "ok-q", {})[0]
    assert root.get(behind, JOB, "State") == "queued", "others' jobs are not refused"
    for path in reversed(paths[1:]):
        client.job(path, "Cancel", {})
    release("held-q0")
    assert client.job(paths[0], "Wait")[0]["pages"] == 5
    for path in paths[1:]:
        refuses(E + "Cancelled", client.job, path, "Wait")
    assert root.job(behind, "Wait")[0]["pages"] == 5


def test_caller_that_leaves():
    stay, go = Client(), Client()
    stay.begin("Dump", target(), "held-stay", {})
    go.begin("Dump", target(), "held-go", {"on-disconnect": ("s", "cancel")})
    both = min(2, root.get(PATH, MANAGER, "MaxJobsRunning"))
    until(lambda: len([j for j in root.jobs().values() if j["State"] == "running"]) == both, "both run")
    stay.close()
    go.close()
    def states():
        return {j["Name"]: j["Result"] for j in root.jobs().values()}
    until(lambda: states()["held-go"] == "canceled", "the job of the caller that left is cancelled")
    release("held-stay")
    until(lambda: states()["held-stay"] == "done", "the other one is not")
    assert "held-stay" in root.names() and "held-go" not in root.names()


def is_pausing(pid):
    """As the engine of linger-1 does from its result on; others wait for a message."""
    try:
        with open(f"/proc/{pid}/syscall") as f:
            return f.read().startswith("34 ")
    except OSError:
        return False


def test_lingering_engine_is_not_waited_for():
    began = time.monotonic()

    def is_over():
        """It is killed after a while (RETIREMENT_USEC)."""
        return time.monotonic() - began > 9
    assert root.do("Dump", target(), "linger-1", {})[0]["pages"] == 5
    engines = children(spawner_pid(root))
    until(lambda: any(is_pausing(pid) for pid in engines) or is_over(), "its engine is there still")
    for pid in engines:
        try:
            refuses(E + "NotPermittedTarget", root.do, "Dump", pid, "ok-engine", {"replace": ("b", True)})
        except AssertionError:
            assert is_over()
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    until(lambda: not set(engines) & set(children(spawner_pid(root))), "the engines are gone")
    assert root.do("Dump", target(), "ok-after-kill", {})[0]["pages"] == 5


def test_process_is_locked_down():
    def status(pid):
        with open(f"/proc/{pid}/status") as f:
            return {k: v.strip() for k, _, v in (line.partition(":") for line in f)}
    bus, spawner = status(service_pid(root)), status(spawner_pid(root))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(bus[name], 16) == 0, (name, bus[name])
    assert bus["NoNewPrivs"] == "1"
    assert bus["Seccomp"] == ("0" if os.environ.get("WITH_SANITIZER") else "2"), bus["Seccomp"]
    assert spawner["NoNewPrivs"] == "0" and spawner["Seccomp"] == "0"
    assert int(spawner["CapEff"], 16) != 0


def test_list_plugins_is_empty():
    assert nobody.do("ListPlugins") == ([],)


def test_finished_jobs_do_not_pile_up():
    path = root.do("StartDump", target(), "ok-pile", {})[0]
    for _ in range(40):
        nobody.do("Check", {})
    assert len(nobody.jobs()) == 32 and path in root.jobs(), "a user pushes out only own jobs"


def test_everything_is_removed():
    forget_all(root)
    forget_all(nobody)
    assert user_files(0) == [] and user_files(NOBODY) == []


main(globals())
