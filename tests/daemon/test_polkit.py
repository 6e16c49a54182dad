# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --no-polkit
"""Every method against a polkit that grants, refuses, wants a password, hangs, or is not
there; and what may change while it thinks."""

import os

from suite import *

root = Client()
root.driver("StartServiceByName", "su", SERVICE, 0)
for name in ("ok-own", "ok-any"):
    root.do("Dump", target(), name, {})
end_targets()


def make_checkpoints(uid):
    """A checkpoint of @uid's, as a dump of an own process leaves it."""
    polkit = Polkit("yes")
    client = Client(uid=uid)
    for name in ("ok-mine", "ok-victim"):
        polkit.do(client, "Dump", target(uid), name, {})
    client.close()
    polkit.close()


make_checkpoints(NOBODY)
# every method that asks: arguments, and the actions it has to ask for, by whose it is
THEIRS = {"owner": ("u", 0)}
REPLACE = {"replace": ("b", True)}
DIRECTORY = Fd(os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY))


def rows():
    own, other = target(NOBODY), target()
    path = root.do("StartDump", target(), "held-job", {"replace": ("b", True)})[0]
    dangerous = {"external": ("as", ["unix:action=close"]), **REPLACE}
    later = {"cgroup": ("s", "x"), **REPLACE}
    yield "Dump", (own, "ok-new", REPLACE), ["dump-own"]
    yield "Dump", (other, "ok-new", REPLACE), ["dump-any"]
    yield "Dump", (own, "ok-new", dangerous), ["privileged-options", "dump-own"]
    yield "Dump", (own, "ok-new", later), ["privileged-options", "dump-own"]
    yield "StartDump", (own, "ok-new", REPLACE), ["dump-own"]
    yield "StartDump", (other, "ok-new", REPLACE), ["dump-any"]
    # the caller itself is this process, which is root's
    yield "StartDumpSelf", ("ok-new", REPLACE), ["dump-any"]
    yield "DumpSelfTo", (DIRECTORY, {}), ["dump-any"]
    yield "DumpTo", (Fd(os.pidfd_open(own)), DIRECTORY, {}), ["dump-own"]
    yield "DumpTo", (Fd(os.pidfd_open(other)), DIRECTORY, {}), ["dump-any"]
    yield "DumpTo", (Fd(os.pidfd_open(own)), DIRECTORY, {"any-target": ("b", True)}), ["dump-any"]
    yield "RestoreFrom", (DIRECTORY, {}), ["restore-untrusted"]
    yield "PreDump", (own, "ok-new", REPLACE), ["dump-own"]
    yield "PreDump", (other, "ok-new", REPLACE), ["dump-any"]
    yield "StartPreDump", (own, "ok-new", REPLACE), ["dump-own"]
    yield "StartPreDump", (other, "ok-new", REPLACE), ["dump-any"]
    yield "Explain", (own, {}), ["dump-own"]
    yield "Explain", (other, {}), ["dump-any"]
    yield "Restore", ("ok-mine", {}), ["restore-own"]
    yield "Restore", ("ok-own", THEIRS), ["restore-any"]
    yield "Restore", ("ok-mine", {"cgroup": ("s", "x")}), ["privileged-options", "restore-own"]
    yield "StartRestore", ("ok-mine", {}), ["restore-own"]
    yield "StartRestore", ("ok-own", THEIRS), ["restore-any"]
    yield "ListCheckpoints", ({"all": ("b", True)},), ["manage-any"]
    yield "ListCheckpoints", (THEIRS,), ["manage-any"]
    yield "DescribeCheckpoint", ("ok-own", THEIRS), ["manage-any"]
    yield "RemoveCheckpoint", ("ok-any", THEIRS), ["manage-any"]
    yield "ListJobs", ({"all": ("b", True)},), ["manage-any"]
    yield "ListJobs", (THEIRS,), ["manage-any"]
    for member, args in (("Wait", ()), ("Cancel", ({},)), ("Release", ())):
        yield (path, member), args, ["manage-any"]
    for member, args in (("Get", ("ss", JOB, "State")), ("GetAll", ("s", JOB)), ("GetAll", ("s", ""))):
        yield (path, PROPERTIES, member), args, ["manage-any"]


def begin(client, member, args, flags=0):
    if isinstance(member, str):
        return client.begin(member, *args, flags=flags)
    if len(member) == 2:
        return client.start(SERVICE, member[0], JOB, member[1], SIGNATURES[member[1]], *args, flags=flags)
    return client.start(SERVICE, member[0], member[1], member[2], *args, flags=flags)


def clean_up():
    for path, _ in root.do("ListJobs", {"all": ("b", True)})[0]:
        for member, args in (("Cancel", ({},)), ("Wait", ()), ("Release", ())):
            try:
                root.job(path, member, *args)
            except BusError:
                pass  # cancelled, or released before
    end_targets()


ROWS = len(list(rows()))


def matrix(answer, expect, flags=0):
    """Every row, asked of a polkit with @answer (None: there is no polkit)."""
    for i in range(ROWS):
        clean_up()
        member, args, actions = list(rows())[i]
        polkit = Polkit(answer) if answer else None
        client = Client(uid=NOBODY)
        serial = begin(client, member, args, flags)
        wait = (lambda: polkit.run(client, serial)) if polkit else (lambda: client.wait(serial))
        expect(member, args, actions, polkit, client, wait)
        if polkit:
            polkit.close()
        client.close()
    clean_up()


def denied_name(actions):
    return E + "OptionNotPermitted" if actions[0] == "privileged-options" else DENIED


def test_no_polkit_refuses():
    matrix(None, lambda member, args, actions, polkit, client, wait: refuses(denied_name(actions), wait, says=actions[0]))


def test_refusal_is_typed_and_names_the_action():
    def expect(member, args, actions, polkit, client, wait):
        refuses(denied_name(actions), wait, says="org.criu.Checkpoint." + actions[0])
        assert polkit.actions() == actions[:1], (member, polkit.actions())
        assert polkit.questions[0]["subject"] == client.name and polkit.questions[0]["flags"] == 0
    matrix("no", expect)


def test_challenge_without_permission_to_interact():
    def expect(member, args, actions, polkit, client, wait):
        refuses(INTERACTION, wait, says=actions[0])
        assert polkit.actions() == actions[:1]
    matrix("challenge", expect)


def test_challenge_that_nobody_could_answer():
    def expect(member, args, actions, polkit, client, wait):
        refuses(denied_name(actions), wait, says=actions[0])
        assert polkit.questions[0]["flags"] == 1, "the question may open a dialog"
    matrix("challenge", expect, flags=ALLOW_INTERACTIVE)


def test_grant_lets_exactly_the_member_through():
    def expect(member, args, actions, polkit, client, wait):
        later = "privileged-options" in actions and "external" not in args[-1]
        if later or (isinstance(member, str) and "PreDump" in member):
            refuses(E + "NotSupported", wait)
        elif isinstance(member, str) and "Self" in member: # our tree is being dumped already: rows()
            refuses(E + "Busy", wait)
        else:
            waits = member[1:] == ("Wait",)
            if waits:
                release("held-job")
            wait()
            if waits:
                hold("held-job")
        assert polkit.actions() == actions, (member, polkit.actions(), actions)
    matrix("yes", expect)
    for name in ("ok-new",):
        polkit = Polkit("yes")
        assert name in Client(uid=NOBODY).names()
        polkit.close()


def test_caller_that_leaves_withdraws_its_question():
    def expect(member, args, actions, polkit, client, wait):
        polkit.until_asked()
        client.close()
        until(lambda: polkit.bus.pump(0.01) is not None and len(polkit.cancelled) == 1, "the question is withdrawn")
        polkit.release("yes")  # too late
    matrix("hang", expect)


def test_second_call_while_the_first_is_asked_about():
    def expect(member, args, actions, polkit, client, wait):
        polkit.until_asked()
        assert root.do("ListPlugins") == ([],), "others are served"
        assert client.do("ListJobs", {}) == ([],), "and so is the caller"
        polkit.release("no")
        refuses(denied_name(actions), wait)
    matrix("hang", expect)


def test_root_is_not_asked():
    polkit = Polkit("no")
    polkit.do(root, "Dump", target(), "ok-root", {"replace": ("b", True)})
    polkit.do(root, "Restore", "ok-mine", {"owner": ("u", NOBODY)})
    polkit.do(root, "ListCheckpoints", {"all": ("b", True)})
    assert polkit.questions == []
    polkit.close()


def test_open_members_ask_nobody():
    polkit = Polkit("hang")
    client = Client(uid=OTHER)
    assert client.do("ListJobs", {}) == ([],) and client.do("ListCheckpoints", {}) == ([],)
    assert client.do("ListPlugins") == ([],)
    client.do("Subscribe")
    client.do("Unsubscribe")
    assert client.do("Check", {})[0] is True
    assert client.get(PATH, MANAGER, "InterfaceVersion") == 2 and client.get_all(PATH, MANAGER)["Version"]
    assert polkit.questions == []
    polkit.close()


def test_details_of_the_question():
    polkit = Polkit("no")
    client = Client(uid=NOBODY)
    pid = target()
    serial = client.begin("Dump", pid, "ok-details", {})
    refuses(DENIED, polkit.run, client, serial)
    assert polkit.questions[-1]["details"] == {"method": "Dump", "pid": str(pid), "uid": "0", "name": "ok-details"}
    serial = client.begin("Restore", "ok-own", THEIRS)
    refuses(DENIED, polkit.run, client, serial)
    assert polkit.questions[-1]["details"] == {"method": "Restore", "name": "ok-own", "uid": "0"}
    polkit.close()


def set_uid_target():
    """A process of NOBODY's that becomes root's on a signal, as by executing a setuid program."""
    script = ("import os,signal,time\n"
              "os.setresuid(65534, 65534, 0)\n"
              "signal.signal(signal.SIGUSR1, lambda *a: (os.seteuid(0), os.setresuid(0, 0, 0)))\n"
              "os.write(1, b'.')\n"
              "while True: time.sleep(1)\n")
    import subprocess
    process = subprocess.Popen(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    targets.append(process)
    process.stdout.read(1)
    return process.pid


def test_saved_uid_makes_a_target_foreign():
    polkit = Polkit("no")
    client = Client(uid=NOBODY)
    serial = client.begin("Dump", set_uid_target(), "ok-saved", {})
    refuses(DENIED, polkit.run, client, serial, says="dump-any")
    polkit.close()


def setuid_program(folder):
    """A copy of sleep(1) that belongs to root and is setuid."""
    import shutil
    path = folder + "/setuid-sleep"
    shutil.copy("/bin/sleep", path)
    os.chmod(path, 0o4755)
    return path


def test_target_that_executes_setuid_while_polkit_thinks():
    folder = os.environ["WITH_BUS_DIR"]
    program = setuid_program(folder)
    polkit = Polkit("hang")
    for member, extra in (("Dump", ("ok-setuid",)), ("StartDump", ("ok-setuid",)), ("Explain", ())):
        client = Client(uid=NOBODY)
        go = f"{folder}/go-{member}"
        pid = target(NOBODY, ("sh", "-c", f"while [ ! -e {go} ]; do sleep 0.02; done; exec {program} 1000"))
        polkit.questions.clear()
        serial = client.begin(member, pid, *extra, {})
        polkit.until_asked()
        assert polkit.actions() == ["dump-own"]
        open(go, "w").close()

        def effective():
            with open(f"/proc/{pid}/status") as f:
                return [line for line in f if line.startswith("Uid:")][0].split()[2]
        until(lambda: effective() == "0", "the target is root's now")
        polkit.release("yes")
        refuses(E + "NotPermittedTarget", polkit.run, client, serial, says="dump-any")
    polkit.close()
    assert "ok-setuid" not in user_files(NOBODY)


def test_target_that_changes_hands_needs_a_new_grant():
    """An administrator allowed the dump of a user's process, not of root's."""
    program = setuid_program(os.environ["WITH_BUS_DIR"])
    polkit = Polkit("hang")
    client = Client(uid=OTHER)
    go = os.environ["WITH_BUS_DIR"] + "/go-hands"
    pid = target(NOBODY, ("sh", "-c", f"while [ ! -e {go} ]; do sleep 0.02; done; exec {program} 1000"))
    serial = client.begin("Dump", pid, "ok-hands", {})
    polkit.until_asked()
    assert polkit.questions[0]["details"]["uid"] == str(NOBODY)
    open(go, "w").close()
    until(lambda: "\nUid:\t65534\t0" in open(f"/proc/{pid}/status").read(), "the target is root's now")
    polkit.release("yes")
    refuses(E + "NotPermittedTarget", polkit.run, client, serial)


def test_checkpoint_that_changes_while_polkit_thinks():
    """restore-own was asked for; what has the name by now took dump-any to make."""
    first, second = Client(uid=NOBODY), Client(uid=NOBODY)
    polkit = Polkit("yes")
    polkit.do(first, "Dump", target(NOBODY), "ok-swap", {})
    polkit.answer = lambda action: "hang" if action.endswith("restore-own") else "yes"
    serial = first.begin("Restore", "ok-swap", {})
    polkit.until_asked(2)
    polkit.do(second, "Dump", target(), "ok-swap", REPLACE)
    polkit.release("yes")
    refuses(DENIED, polkit.run, first, serial, says="restore-any")


def test_shutdown_answers_open_questions():
    polkit = Polkit("hang")
    client = Client(uid=NOBODY)
    serial = client.begin("Explain", target(NOBODY), {})
    polkit.until_asked()
    pid = service_pid(root)
    os.kill(pid, 15)
    refuses(E + "ShuttingDown", client.wait, serial)
    until(lambda: not os.path.exists(f"/proc/{pid}"), "it ends")


def test_target_that_ends_while_polkit_thinks():
    polkit = Polkit("hang")
    client = Client(uid=NOBODY)
    pid = target(NOBODY)
    serial = client.begin("Dump", pid, "ok-gone", {})
    polkit.until_asked()
    end_targets()
    polkit.release("yes")
    refuses(E + "NoSuchProcess", polkit.run, client, serial, says=str(pid))
    polkit.close()


def test_name_that_is_taken_while_polkit_thinks():
    polkit = Polkit("hang")
    first, second = Client(uid=NOBODY), Client(uid=NOBODY)
    one = first.begin("Dump", target(NOBODY), "ok-race", {})
    two = second.begin("Dump", target(NOBODY), "ok-race", {})
    polkit.until_asked(2)
    polkit.release("yes")
    polkit.run(first, one)
    try:
        polkit.run(second, two)
        raise AssertionError("both dumps got the name")
    except BusError as e:
        assert e.name in (E + "CheckpointExists", E + "Busy"), e
    polkit.close()


def test_checkpoint_of_a_foreign_tree_needs_restore_any():
    polkit = Polkit("yes")
    client = Client(uid=NOBODY)
    polkit.do(client, "Dump", target(), "ok-foreign", {})
    polkit.questions.clear()
    polkit.do(client, "Restore", "ok-foreign", {})
    assert polkit.actions() == ["restore-any"]
    polkit.questions.clear()
    described = polkit.do(client, "DescribeCheckpoint", "ok-foreign", {})[0]
    assert described["any-target"] is True and "administrator" in described["images-error"], described
    assert "mappings" not in described and not polkit.actions()
    assert root.do("DescribeCheckpoint", "ok-foreign", {"owner": ("u", NOBODY)})[0]["mappings"]
    polkit.close()


def test_open_questions_are_limited():
    polkit = Polkit("hang")
    client = Client(uid=NOBODY)
    pid = target(NOBODY)
    serials = [client.begin("Explain", pid, {}) for _ in range(9)]
    refuses(LIMITS, client.wait, serials[8])
    polkit.until_asked(8)
    client.close()
    until(lambda: polkit.bus.pump(0.01) is not None and len(polkit.cancelled) == 8, "all are withdrawn")
    polkit.close()


def test_polkit_that_dies_or_answers_nonsense():
    polkit = Polkit("hang")
    client = Client(uid=NOBODY)
    serial = client.begin("Dump", target(NOBODY), "ok-dies", {})
    polkit.until_asked()
    polkit.close()
    refuses(DENIED, client.wait, serial, says="polkit")
    polkit = Polkit("hang")
    serial = client.begin("Dump", target(NOBODY), "ok-dies", {})
    polkit.until_asked()
    for call in polkit.open.values():
        polkit.bus.reply(call, "s", "yes")
    refuses(DENIED, polkit.run, client, serial, says="polkit")
    serial = client.begin("Dump", target(NOBODY), "ok-dies", {})
    polkit.questions.clear()
    polkit.until_asked()
    for call in list(polkit.open.values())[-1:]:
        polkit.bus.reply_error(call, "org.freedesktop.PolicyKit1.Error.Failed", "broken")
    refuses(DENIED, polkit.run, client, serial, says="broken")
    polkit.close()


main(globals())
