# SPDX-License-Identifier: LGPL-2.1-or-later
# with-bus: --no-polkit
"""What the service shows by introspection, the shipped interface files, the bus policy, the
polkit actions and the manual page all say the same. (That each member has its row in the
access table: test-daemon-units.)"""

import os
import re
import xml.etree.ElementTree as ET

from suite import *

SOURCE = os.environ["SOURCE_ROOT"]
root = Client()


def interface_of(text, name):
    node = [n for n in ET.fromstring(text) if n.get("name") == name]
    assert len(node) == 1, f"{name} is there {len(node)} times"
    return [(m.tag, sorted(m.attrib.items()),
             [(k.tag, sorted(k.attrib.items())) for k in m]) for m in node[0]]


def shipped(name):
    with open(f"{SOURCE}/dbus/{name}.xml") as f:
        return interface_of(f.read(), name)


def members(name, kind):
    return [dict(attributes)["name"] for tag, attributes, _ in shipped(name) if tag == kind]


def manual(page):
    with open(f"{SOURCE}/docs/man/{page}") as f:
        return f.read().replace("\\-", "-")


def introspect(path):
    return root.call(SERVICE, path, INTROSPECTABLE, "Introspect")[0]


def test_interface_files_are_what_the_service_shows():
    assert interface_of(introspect(PATH), MANAGER) == shipped(MANAGER)
    job = root.do("StartDump", target(), "held-contract", {})[0]
    assert interface_of(introspect(job), JOB) == shipped(JOB)
    others = {n.get("name") for n in ET.fromstring(introspect(PATH)) if n.tag == "interface"}
    assert others == {MANAGER, PROPERTIES, INTROSPECTABLE, "org.freedesktop.DBus.Peer"}, others
    root.job(job, "Cancel", {})
    # jobs of others are not listed to whoever asks
    assert f'<node name="{job.rsplit("/")[-1]}"' not in introspect(PATH + "/job")


def test_arguments_have_names():
    for interface in (MANAGER, JOB):
        for tag, attributes, arguments in shipped(interface):
            for kind, values in arguments:
                assert kind == "annotation" or dict(values).get("name"), (attributes, values)


def test_tests_know_every_method():
    for interface in (MANAGER, JOB):
        for tag, attributes, arguments in shipped(interface):
            if tag == "method":
                signature = "".join(dict(a)["type"] for _, a in arguments if dict(a).get("direction") == "in")
                assert SIGNATURES[dict(attributes)["name"]] == signature


def test_bus_policy_lists_exactly_the_members():
    policy = ET.parse(f"{SOURCE}/dbus/org.criu.Checkpoint.conf").getroot()
    default = [p for p in policy if p.get("context") == "default"][0]
    assert default[0].tag == "deny" and default[0].attrib == {"send_destination": SERVICE}
    listed = {(r.get("send_interface"), r.get("send_member")) for r in default[1:]}
    assert all(r.tag == "allow" and r.get("send_destination") == SERVICE for r in default[1:])
    expected = {(i, m) for i in (MANAGER, JOB) for m in members(i, "method")}
    expected |= {(PROPERTIES, "Get"), (PROPERTIES, "GetAll"), (INTROSPECTABLE, "Introspect"),
                 ("org.freedesktop.DBus.Peer", "Ping")}
    assert listed == expected, listed ^ expected


def test_bus_policy_works():
    nobody = Client(uid=NOBODY)
    refuses(DENIED, nobody.call, SERVICE, PATH, MANAGER, "NoSuchMethod")
    refuses(DENIED, nobody.call, SERVICE, PATH, PROPERTIES, "Set", "ssv", MANAGER, "Version", ("s", "x"))
    refuses(DENIED, nobody.call, SERVICE, PATH, "org.freedesktop.DBus.Peer", "GetMachineId")
    refuses(DENIED, nobody.call, SERVICE, PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    assert nobody.call(SERVICE, PATH, "org.freedesktop.DBus.Peer", "Ping") == ()
    refuses(DENIED, nobody.driver, "RequestName", "su", SERVICE, 0)


def test_manual_describes_everything():
    text = manual("org.criu.Checkpoint.5")
    for interface in (MANAGER, JOB):
        for kind in ("method", "signal", "property"):
            for name in members(interface, kind):
                assert re.search(rf"^\.(BR?|TP|TQ)?.*\b{name}\b", text, re.M), f"{interface}.{name} is not in the manual"
    with open(f"{SOURCE}/daemon/job-options.c") as f:
        options = re.findall(r'^    \{"([a-z-]+)", "([a-z{}]+)",', f.read(), re.M)
    assert len(options) > 20
    for name, signature in options:
        assert re.search(rf"\b{name}\b[ \"]*\({re.escape(signature)}\)", text), f"option {name} ({signature}) is not in the manual"
    with open(f"{SOURCE}/daemon/daemon-error.c") as f:
        errors = re.findall(r'OURS\("(\w+)"\)', f.read())
    assert len(errors) == 20
    for name in errors + [INVALID, DENIED, INTERACTION, LIMITS]:
        assert re.search(rf"\b{name.rsplit('.')[-1]}\b", text), f"error {name} is not in the manual"


def test_results_of_the_engine_are_in_the_manual():
    text, keys = manual("org.criu.Checkpoint.5"), set()
    for folder, _, files in os.walk(f"{SOURCE}/engine"):
        for name in files:
            if name.endswith(".c"):
                with open(f"{folder}/{name}") as f:
                    keys |= set(re.findall(r'job_result_\w+\([^;]*?"([a-z-]+)"', f.read()))
    assert {"pages", "frozen-usec"} <= keys
    # "comm" is the description's
    missing = [key for key in sorted(keys) if not re.search(rf"(?<![a-z-]){key}(?![a-z-])", text)]
    assert not missing, missing


def test_errors_are_the_engines_and_the_contracts():
    with open(f"{SOURCE}/proto/engine.proto") as f:
        codes = re.findall(r"^  ([A-Z_]+) = \d+;", f.read().split("enum EngineErrorCode {")[1].split("}")[0], re.M)
    with open(f"{SOURCE}/daemon/daemon-error.c") as f:
        table = re.findall(r"\{ENGINE_ERROR_CODE__([A-Z_]+), (?:OURS\(\")?([A-Za-z_]+)", f.read())
    assert [code for code, _ in table] == codes
    for code, name in table[:19] + [row for row in table if row[0] == "FILE_CHANGED"]:
        assert re.sub(r"(?<!^)([A-Z])", r"_\1", name).upper() == code


def test_actions_are_shipped_documented_and_used():
    policy = ET.parse(f"{SOURCE}/dbus/org.criu.Checkpoint.policy").getroot()
    shipped_actions = {a.get("id"): a.find("defaults") for a in policy.iter("action")}
    used = set()
    for name in ("access-table.c", "access-table.h"):
        with open(f"{SOURCE}/daemon/{name}") as f:
            used |= {SERVICE + "." + a for a in re.findall(r'ACTION\("([a-z-]+)"\)', f.read())}
    assert used == set(shipped_actions)
    text = manual("org.criu.Checkpoint.5")
    for name, defaults in shipped_actions.items():
        assert name in text, f"{name} is not in the manual"
        values = [d.text for d in defaults]
        if name.endswith("-own"):
            assert values == ["auth_admin", "auth_admin", "yes"]
        else:
            assert values == ["auth_admin_keep" if name.endswith("manage-any") else "auth_admin"] * 3


def test_daemon_settings_are_in_the_manual():
    text = manual("checkpointd.8")
    with open(f"{SOURCE}/daemon/service-limits.c") as f:
        settings = re.findall(r'^    \{"([a-z-]+)", LIMIT_', f.read(), re.M)
    assert len(settings) == 7
    with open(f"{SOURCE}/daemon/checkpointd.conf") as f:
        assert re.findall(r"^#([a-z-]+)=", f.read(), re.M) == settings
    for name in settings:
        assert f"{name} " in text, name
    for folder, name in (("daemon/main.c", "CHECKPOINTD_[A-Z]+"), ("daemon/manager.c", "CHECKPOINTD_[A-Z]+_USEC"),
                         ("daemon/daemon-job.c", "CHECKPOINTD_[A-Z]+_USEC")):
        with open(f"{SOURCE}/{folder}") as f:
            for variable in re.findall(rf'"({name})"', f.read()):
                assert variable in text, variable


main(globals())
