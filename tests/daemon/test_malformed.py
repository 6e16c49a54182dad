# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --no-polkit
# env: CHECKPOINTD_LINGER_USEC=600000000
"""Calls that are wrong, made from the introspection: wrong signatures, wrong values, random
options. Each gets an error (or, by chance, is right), and the service lives on."""

import os
import random
import socket
import xml.etree.ElementTree as ET

from suite import *
from wire import split

root = Client()
nobody = Client(uid=NOBODY)
pick = random.Random(20260101)
FDS = [os.open("/dev/null", os.O_RDWR), os.open("/tmp", os.O_RDONLY), os.open("/tmp", os.O_PATH), *os.pipe(),
       os.pidfd_open(os.getpid()), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0].detach()]
NAMES = ["stop", "leave-running", "timeout", "token", "owner", "all", "external", "compress", "parent", "inherit",
         "on-disconnect", "replace", "", "x" * 300, "\n", "ünicode", "../..", "%s%n"]
INVENTED = ["", "s", "u", "a{sv}", "us", "usa{ss}", "usav", "(usa{sv})", "aaaaau", "v", "a{sa{sv}}", "ay", "d", "ssssssssss",
            "a(a(a(v)))"]


def methods():
    for path, interface in ((PATH, MANAGER), (job_path(), JOB)):
        text = root.call(SERVICE, path, INTROSPECTABLE, "Introspect")[0]
        node = [n for n in ET.fromstring(text) if n.get("name") == interface][0]
        for m in node.iter("method"):
            yield path, interface, m.get("name"), "".join(a.get("type") for a in m if a.get("direction") == "in")
    for path, interface in ((PATH, MANAGER), (job_path(), JOB)):
        yield path, PROPERTIES, "Get", "ss"
        yield path, PROPERTIES, "GetAll", "s"


def job_path():
    jobs = root.jobs()
    return next(iter(jobs)) if jobs else root.do("StartDump", target(), "held-fuzz", {"replace": ("b", True)})[0]


def value(t, depth=0):
    c = t[0]
    if c in "sog":
        return {"s": pick.choice(NAMES), "o": "/x", "g": "a{sv}"}[c]
    if c == "h":
        return pick.choice([Fd(pick.choice(FDS)), Fd(pick.choice(FDS)), 7, 0xffffffff])
    if c == "b":
        return pick.randint(0, 1)
    if c == "d":
        return pick.choice([0.0, -1e308, float("nan"), float("inf")])
    if c == "v":
        inner = pick.choice(["s", "b", "u", "t", "as", "a{sv}", "x", "v"]) if depth < 20 else "s"
        return (inner, value(inner, depth + 1))
    if c == "a":
        n = pick.choice([0, 1, 1, 2, 5]) if depth < 4 else 0
        items = [value(t[1:], depth + 1) for _ in range(n)]
        return dict(items) if t[1] == "{" else items
    if c in "({":
        return tuple(value(inner, depth + 1) for inner in split(t[1:-1]))
    # numbers; process ids among them: never one that exists and is ours
    bits = {"y": 8, "n": 15, "q": 16, "i": 31, "u": 32, "x": 63, "t": 64}[c]
    return pick.choice([0, 1, 2, (1 << bits) - 1, 1 << (bits - 1), (1 << bits) - 2]) if bits != 15 else 0


def attempt(client, path, interface, member, signature, values):
    """Either an error with a name and a message, or an answer; never silence."""
    try:
        client.call(SERVICE, path, interface, member, signature, *values)
    except BusError as e:
        assert e.name.startswith(("org.criu.Checkpoint.Error.", "org.freedesktop.DBus.Error.")), e
        assert e.name not in ("org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.ServiceUnknown"), e
        assert e.text, e.name
        return e.name
    return None


def still_there(pid):
    assert service_pid(root) == pid, "the service has died"


def test_wrong_signatures():
    pid = service_pid(root) if root.do("ListPlugins") else 0
    for path, interface, member, right in list(methods()):
        for signature in INVENTED:
            if signature == right:
                continue
            for client in (root, nobody):
                values = [value(t) for t in split(signature)]
                got = attempt(client, path, interface, member, signature, values)
                assert got is not None, f"{member} took ({signature})"
    still_there(pid)


def test_random_arguments():
    pid = service_pid(root)
    for path, interface, member, right in list(methods()):
        if member in ("Check", "Wait"):
            continue  # a right call may take its time
        for _ in range(60):
            for client in (root, nobody):
                attempt(client, path, interface, member, right, [value(t) for t in split(right)])
        root.do("Unsubscribe")
    still_there(pid)


def test_broken_bodies():
    """Bodies the bus itself may object to: then it drops us, and not the service."""
    pid = service_pid(root)
    for member, signature in (("Dump", "usa{sv}"), ("ListJobs", "a{sv}"), ("Restore", "sa{sv}")):
        for size in (0, 1, 3, 4, 7, 8, 40):
            client = Client()
            serial = client.start(SERVICE, PATH, MANAGER, member, signature,
                                  raw=bytes(pick.randrange(256) for _ in range(size)))
            try:
                client.wait(serial)
                raise AssertionError("a broken message was answered")
            except (BusError, EOFError, ConnectionResetError):
                pass
            client.close()
    still_there(pid)


def test_large_and_many_options():
    pid = service_pid(root)
    many = {f"option-{i}": ("u", i) for i in range(20000)}
    refuses(INVALID, root.do, "ListJobs", many)
    refuses(INVALID, root.do, "ListJobs", {"x" * 1000000: ("s", "y" * 1000000)})
    refuses(INVALID, root.do, "Restore", "n" * 1000000, {})
    for i in range(100):
        root.begin("ListJobs", {})
    assert root.do("ListPlugins") == ([],)
    still_there(pid)


def test_subscribers_do_not_pile_up():
    for _ in range(50):
        client = Client(uid=NOBODY)
        client.do("Subscribe")
        client.begin("Check", {})
        client.close()
    assert root.do("ListPlugins") == ([],)


main(globals())
