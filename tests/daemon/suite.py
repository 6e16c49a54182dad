# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon's tests share: the service on its private bus (tools/with-bus), targets
to dump, a polkit that does as told, and a runner that prints TAP."""

import os
import re
import signal
import subprocess
import sys
import time
import traceback

from wire import ALLOW_INTERACTIVE, PATIENCE, BusError, Connection, Fd

SERVICE, PATH = "org.criu.Checkpoint", "/org/criu/Checkpoint"
MANAGER, JOB = SERVICE + ".Manager", SERVICE + ".Job"
PROPERTIES, INTROSPECTABLE = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.Introspectable"
E = SERVICE + ".Error."
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
INTERACTION = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
NOBODY, OTHER = 65534, 1
STORE = os.environ.get("CHECKPOINTD_STORE", "")
SIGNATURES = {"Dump": "usa{sv}", "StartDump": "usa{sv}", "PreDump": "usa{sv}", "StartPreDump": "usa{sv}",
              "StartDumpSelf": "sa{sv}", "DumpSelfTo": "ha{sv}", "DumpTo": "hha{sv}", "RestoreFrom": "ha{sv}",
              "RegisterApplication": "ha{sv}", "Restore": "sa{sv}", "StartRestore": "sa{sv}", "Explain": "ua{sv}", "Check": "a{sv}",
              "ListCheckpoints": "a{sv}", "DescribeCheckpoint": "sa{sv}", "RemoveCheckpoint": "sa{sv}",
              "ListJobs": "a{sv}", "ListPlugins": "", "Subscribe": "", "Unsubscribe": "",
              "Wait": "", "Cancel": "a{sv}", "Release": ""}
targets = []
polkits = []


class Client(Connection):
    """A connection that speaks to the service."""

    def begin(self, member, *args, flags=0):
        return self.start(SERVICE, PATH, MANAGER, member, SIGNATURES[member], *args, flags=flags)

    def do(self, member, *args, flags=0, timeout=PATIENCE):
        return self.wait(self.begin(member, *args, flags=flags), timeout)

    def job(self, path, member, *args, flags=0, timeout=PATIENCE):
        return self.call(SERVICE, path, JOB, member, SIGNATURES[member], *args, flags=flags, timeout=timeout)

    def get(self, path, interface, name, flags=0):
        return self.call(SERVICE, path, PROPERTIES, "Get", "ss", interface, name, flags=flags)[0]

    def get_all(self, path, interface, flags=0):
        return self.call(SERVICE, path, PROPERTIES, "GetAll", "s", interface, flags=flags)[0]

    def jobs(self):
        return dict(self.do("ListJobs", {})[0])

    def names(self, **options):
        return sorted(name for name, _ in self.do("ListCheckpoints", options)[0])


def target(uid=0, command=("sleep", "1000")):
    extra = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True, **extra)
    targets.append(process)
    return process.pid


def release(name):
    """Lets the jobs end that the engine holds for this checkpoint (fake-engine.c)."""
    with open(os.path.dirname(os.environ["CHECKPOINTD_CONFIG"]) + "/release-" + name, "w"):
        pass


def hold(name):
    """Takes a release back."""
    os.unlink(os.path.dirname(os.environ["CHECKPOINTD_CONFIG"]) + "/release-" + name)


def refuses(name, function, *args, says=None, **kwargs):
    """@function fails with the D-Bus error @name, whose message contains @says."""
    try:
        result = function(*args, **kwargs)
    except BusError as e:
        assert e.name == name, f"expected {name}, got {e}"
        assert says is None or says in e.text, f"expected '{says}' in: {e.text}"
        assert e.text, "an error without a message"
        return e
    raise AssertionError(f"expected {name}, but it worked: {result}")


def until(condition, what, timeout=PATIENCE):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen in {timeout} s: {what}")
        time.sleep(0.01)


def service_pid(client):
    return client.driver("GetConnectionUnixProcessID", "s", SERVICE)[0]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def spawner_pid(client):
    return children(service_pid(client))[0]


def user_files(uid):
    try:
        return sorted(os.listdir(f"{STORE}/{uid}"))
    except FileNotFoundError:
        return []


class Polkit:
    """org.freedesktop.PolicyKit1 as the test wants it. @answer: "yes", "no", "challenge",
    "hang", or a function of the action's name that gives one of these."""

    def __init__(self, answer):
        self.answer, self.questions, self.cancelled, self.open = answer, [], [], {}
        self.bus = Connection(serve=self.serve, uid=polkit_uid())
        got = self.bus.driver("RequestName", "su", "org.freedesktop.PolicyKit1", 4)[0]
        assert got == 1, "the polkit name is taken"
        polkits.append(self)

    def serve(self, bus, call):
        if call.member == "CancelCheckAuthorization":
            self.cancelled.append(call.body[0])
            self.open.pop(call.body[0], None)
            return
        (kind, subject), action, details, flags, cancellation = call.body
        assert kind == "system-bus-name", kind
        self.questions.append({"subject": subject["name"], "action": action, "details": details, "flags": flags})
        answer = self.answer(action) if callable(self.answer) else self.answer
        if answer == "hang":
            self.open[cancellation] = call
        else:
            self.give(call, answer)

    def give(self, call, answer):
        self.bus.reply(call, "(bba{ss})", (answer == "yes", answer == "challenge", {}))

    def release(self, answer):
        for call in self.open.values():
            self.give(call, answer)
        self.open.clear()

    def actions(self):
        return [q["action"].removeprefix(SERVICE + ".") for q in self.questions]

    def run(self, client, serial, timeout=PATIENCE):
        """Waits for a client's reply while answering questions."""
        end = time.monotonic() + timeout
        while serial not in client.replies:
            self.bus.pump(0.005)
            client.pump(0.005)
            if time.monotonic() > end:
                raise TimeoutError("no reply")
        return client.wait(serial)

    def do(self, client, member, *args, flags=0):
        return self.run(client, client.begin(member, *args, flags=flags))

    def until_asked(self, n=1):
        until(lambda: self.bus.pump(0.01) is not None and len(self.questions) >= n, f"{n} questions to polkit")

    def close(self):
        self.bus.close()


def polkit_uid():
    import pwd
    return pwd.getpwnam("polkitd").pw_uid


def end_targets():
    for process in targets:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # each has a session of its own
        process.wait()
    targets.clear()


def service_log():
    try:
        with open(os.environ["WITH_BUS_DIR"] + "/service.log", errors="replace") as log:
            return log.read().splitlines()
    except FileNotFoundError:  # it was never started
        return []


def end_service():
    client = Client()
    try:
        pid = service_pid(client)
    except BusError:
        return
    os.kill(pid, signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the service ends")


def service_ends_without_complaints():
    """Ends in order, and neither GLib nor a sanitizer (leaks too) had anything to say."""
    end_service()
    bad = [line for line in service_log() if re.search(r"Sanitizer|runtime error|CRITICAL|WARNING|assert", line)]
    assert not bad, bad


def main(scope):
    """Runs every test_* of the caller in order of definition."""
    tests = [(name, f) for name, f in scope.items() if name.startswith("test_") and callable(f)]
    only = sys.argv[1:]
    tests = [t for t in tests if not only or t[0] in only]
    tests.append(("service_ends_without_complaints", service_ends_without_complaints))
    failed = 0
    print(f"1..{len(tests)}")
    for i, (name, f) in enumerate(tests, 1):
        start = time.monotonic()
        try:
            f()
            print(f"ok {i} - {name} # {time.monotonic() - start:.2f} s", flush=True)
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print(f"not ok {i} - {name}", flush=True)
        finally:
            end_targets()
            while polkits:
                polkits.pop().close()
    if failed:
        for line in service_log()[-200:]:
            print("# service: " + line)
    sys.exit(1 if failed else 0)


__all__ = [name for name in dir() if not name.startswith("__")]
