#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""checkpoint(1) against a stand-in for the service: output, exit statuses, Ctrl-C, hostile text.

CHECKPOINT names the command, SOURCE_ROOT the tree.
"""

import ast
import json
import os
import pty
import re
import signal
import subprocess
import tempfile
import time
import unittest

import tap

COMMAND = os.environ["CHECKPOINT"]
TREE = os.environ["SOURCE_ROOT"]
HERE = os.path.dirname(os.path.abspath(__file__))
ERROR = "org.criu.Checkpoint.Error."


class Bus:
    """A private bus, with the stand-in on it."""

    def __init__(self, service=True):
        self.dir = tempfile.TemporaryDirectory(prefix="command-test.")
        self.bus = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--nosyslog", "--print-address=1",
             f"--address=unix:path={self.dir.name}/bus"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.bus.stdout.readline().strip()
        self.env = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.address, LC_ALL="C.UTF-8", TZ="UTC")
        self.service = None
        if service:
            self.service = subprocess.Popen(["/usr/bin/python3", f"{HERE}/mock_service.py"], env=self.env,
                                            stdout=subprocess.PIPE, text=True)
            self.service.stdout.readline()

    def close(self):
        for process in (self.service, self.bus):
            if process:
                process.terminate()
                process.wait()
                process.stdout.close()
        self.dir.cleanup()

    def calls(self, method):
        reply = subprocess.run(
            ["busctl", f"--address={self.address}", "--json=short", "call", "org.criu.Checkpoint",
             "/org/criu/Checkpoint", "org.criu.Checkpoint.Mock", "Calls"], capture_output=True, text=True, check=True, env=self.env)
        return [call for call in ast.literal_eval(json.loads(reply.stdout)["data"][0]) if call[0] == method]


class CommandCase(unittest.TestCase):
    def setUp(self):
        self.bus = Bus()

    def tearDown(self):
        self.bus.close()

    def run_command(self, *arguments, env=None):
        return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120,
                              env=env or self.bus.env, stdin=subprocess.DEVNULL)

    def start(self, *arguments, **more):
        return subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                stdin=subprocess.DEVNULL, env=self.bus.env, **more)

    def wait_for_call(self, method, n=1):
        for _ in range(1200):
            calls = self.bus.calls(method)
            if len(calls) >= n:
                return calls
            time.sleep(0.05)
        self.fail(f"{method} was not called {n} times")


class Run(CommandCase):
    def test_dump_tells_the_result(self):
        done = self.run_command("dump", "42", "mine")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout,
                         "dumped process 42 as mine (3 tasks, 12.0 MiB, frozen for 3.1 ms, 10.2 ms in all)\n")

    def test_dump_default_name_is_program_pid_date(self):
        done = self.run_command("dump", str(os.getpid()))
        self.assertEqual(done.returncode, 0, done.stderr)
        name = self.bus.calls("StartDump")[0][1]
        self.assertRegex(name, rf"^[A-Za-z0-9_.-]+-{os.getpid()}-\d{{8}}-\d{{6}}$")

    def test_dump_hands_over_its_options(self):
        done = self.run_command("--leave-running", "dump", "42", "mine", "--timeout=1.5", "--replace", "--durable",
                                "--shell-job", "-o", "token=abc", "-o", "count:u=7")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.bus.calls("StartDump")[0][2], {
            "leave-running": "1", "timeout": "1500000", "replace": "1", "durable": "1", "shell-job": "1",
            "token": "abc", "count": "7", "on-disconnect": "cancel"})

    def test_job_is_released(self):
        self.run_command("dump", "42", "mine")
        self.assertEqual(len(self.wait_for_call("Release")), 1)

    def test_no_wait_prints_the_job(self):
        done = self.run_command("dump", "42", "mine", "--no-wait")
        self.assertEqual((done.returncode, done.stdout), (0, "/org/criu/Checkpoint/job/1\n"))
        self.assertNotIn("on-disconnect", self.bus.calls("StartDump")[0][2])

    def test_restore_tells_the_pid(self):
        done = self.run_command("restore", "mine", "--owner=0")
        self.assertEqual((done.returncode, done.stdout), (0, "restored mine as process 812\n"))
        self.assertEqual(self.bus.calls("StartRestore")[0][2]["owner"], "0")

    def test_json_is_one_document(self):
        done = self.run_command("dump", "42", "mine", "--json")
        self.assertEqual(json.loads(done.stdout)["frozen-usec"], 3100)
        self.assertEqual(json.loads(done.stdout)["name"], "mine")
        self.assertEqual(done.stderr, "")

    def test_plain_progress_has_a_line_for_each_stage(self):
        done = self.run_command("dump", "42", "mine")
        self.assertRegex(done.stderr, r"(?m)^freeze$")
        self.assertRegex(done.stderr, r"(?m)^memory: \d+ %  .* of 1.0 GiB")
        self.assertNotIn("\r", done.stderr)
        self.assertNotIn("debug line", done.stderr)

    def test_no_progress_says_nothing(self):
        self.assertEqual(self.run_command("dump", "42", "mine", "--no-progress").stderr, "")

    def test_verbose_prints_log_and_objects(self):
        done = self.run_command("dump", "42", "mine", "--verbose")
        self.assertIn("a debug line", done.stderr)
        self.assertIn("pipe 3: saved", done.stderr)
        self.assertIn("frozen-usec: 3100", done.stdout)

    def test_terminal_gets_a_bar(self):
        master, slave = pty.openpty()
        process = subprocess.Popen([COMMAND, "dump", "42", "mine", "--no-ask-password"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=slave, env=self.bus.env)
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
        os.close(master)
        self.assertEqual(process.wait(), 0)
        text = seen.decode()
        self.assertRegex(text, r"\r\x1b\[Kmemory +.*█.*░ +\d+ %  .*/s  .* left")
        self.assertTrue(text.endswith("\r\x1b[K"), "the bar stays behind")


class Interrupted(CommandCase):
    def test_ctrl_c_cancels_and_waits(self):
        process = self.start("dump", "42", "slow")
        self.wait_for_call("Wait")  # it knows its job
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        self.assertEqual(len(self.bus.calls("Cancel")), 1)
        self.assertIn("Error.Cancelled", errors)

    def test_second_ctrl_c_leaves(self):
        process = self.start("dump", "42", "stubborn")
        self.wait_for_call("Wait")  # it knows its job
        process.send_signal(signal.SIGINT)
        self.wait_for_call("Cancel")
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130)

    def test_sigterm_cancels_too(self):
        process = self.start("restore", "slow")
        self.wait_for_call("Wait")  # it knows its job
        process.terminate()
        process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(len(self.bus.calls("Cancel")), 1)


class Errors(CommandCase):
    STATUSES = {
        "Failed": 1, "Cancelled": 130, "NotSupported": 7, "OptionNotPermitted": 4, "NoSuchCheckpoint": 5,
        "CheckpointExists": 6, "ImageInvalid": 8, "ImageIncompatible": 8, "NoSuchProcess": 5,
        "NotPermittedTarget": 4, "Busy": 6, "PidInUse": 6, "PluginFailed": 1, "NoSpace": 1, "TimedOut": 9,
        "EngineCrashed": 1, "KernelMissingFeature": 7, "ShuttingDown": 1, "FileChanged": 8,
        "org.freedesktop.DBus.Error.AccessDenied": 4,
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": 4,
        "org.freedesktop.DBus.Error.LimitsExceeded": 6, "org.freedesktop.DBus.Error.InvalidArgs": 2,
    }

    def test_every_error_has_its_status_and_says_its_name(self):
        for name, status in self.STATUSES.items():
            with self.subTest(name):
                done = self.run_command("restore", f"error:{name}")
                self.assertEqual(done.returncode, status)
                self.assertIn("it is a test", done.stderr)
                self.assertIn(name, done.stderr)
                self.assertEqual(done.stdout, "")

    def test_job_that_fails(self):
        done = self.run_command("dump", "42", "fails")
        self.assertEqual(done.returncode, 7)
        self.assertIn("cannot dump process 42: pid 7 (x) fd 3: a socket", done.stderr)
        self.assertIn("checkpoint explain", done.stderr)

    def test_everything_in_the_way_is_told(self):
        done = self.run_command("dump", "42", "blocked")
        self.assertEqual(done.returncode, 7)
        for fd in (3, 4):
            self.assertIn(f"pid 7 (x) fd {fd}: socket\n  its peer is outside\n  cure: close it\n", done.stderr)
        done = self.run_command("dump", "42", "blocked", "--json")
        self.assertEqual(len(json.loads(done.stdout)["error"]["findings"]), 2)

    def test_json_error(self):
        done = self.run_command("dump", "404", "mine", "--json")
        self.assertEqual(done.returncode, 5)
        self.assertEqual(json.loads(done.stdout)["error"]["name"], ERROR + "NoSuchProcess")

    def test_service_that_dies(self):
        self.assertEqual(self.run_command("dump", "42", "dies").returncode, 3)

    def test_no_service(self):
        bus = Bus(service=False)
        self.addCleanup(bus.close)
        done = self.run_command("list", env=bus.env)
        self.assertEqual(done.returncode, 3)
        self.assertIn("installed", done.stderr)

    def test_no_bus(self):
        env = dict(self.bus.env, DBUS_SYSTEM_BUS_ADDRESS="unix:path=/nonexistent/bus")
        self.assertEqual(self.run_command("list", env=env).returncode, 3)

    def test_wrong_usage(self):
        for arguments in ([], ["explode"], ["dump"], ["dump", "x"], ["dump", "0"], ["dump", "-1"], ["restore"],
                          ["restore", "a", "b"], ["list", "--stop"], ["dump", "1", "a", "--stop", "-R"],
                          ["restore", "a", "--timeout=1"], ["dump", "1", "--timeout=nan"], ["dump", "1", "-t", "0"],
                          ["list", "--owner=no such user"], ["list", "--owner=0", "--all"], ["list", "--nonsense"],
                          ["dump", "1", "name", "-D", "/tmp"], ["restore", "a", "-D", "/tmp"], ["restore", "-D", "/nonexistent"],
                          ["dump", "1", "-D", "/tmp", "--replace"], ["dump", "4194304", "-D", "/tmp"], ["dump", "1", "-o", "x"], ["dump", "1", "-o", "a:b=maybe"], ["dump", "1", "-o", "a:q=1"]):
            with self.subTest(arguments):
                done = self.run_command(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertNotEqual(done.stderr, "")
        self.assertEqual(self.bus.calls("StartDump"), [])


class Views(CommandCase):
    def test_list(self):
        lines = self.run_command("list").stdout.splitlines()
        self.assertEqual(lines[0].split(), ["NAME", "PID", "COMMAND", "TASKS", "SIZE", "CREATED", "OWNER"])
        self.assertEqual(lines[1].split(),
                         ["first", "100", "sh", "3", "12.0", "MiB", "2023-11-14", "22:13:20", "root"])
        self.assertEqual(len(lines), 3)

    def test_list_json(self):
        listed = json.loads(self.run_command("list", "--json", "--all").stdout)
        self.assertEqual([one["name"] for one in listed], ["first", "second"])
        self.assertEqual(self.bus.calls("ListCheckpoints")[0][2], {"all": "1"})

    def test_empty_list(self):
        self.assertEqual(self.run_command("list", "--owner=99").stdout, "no checkpoints\n")
        self.assertEqual(self.run_command("list", "--owner=99", "--json").stdout, "[]\n")

    def test_show_draws_the_tree(self):
        shown = self.run_command("show", "full").stdout
        self.assertRegex(shown, r"(?m)^100 sh ")
        self.assertRegex(shown, r"(?m)^├─ 101 .*red ")
        self.assertRegex(shown, r"(?m)^│  └─ 103 leaf ")
        self.assertRegex(shown, r"(?m)^└─ 102 tail ")
        self.assertRegex(shown, r"(?m)^Open files of 100 sh$")
        self.assertRegex(shown, r"(?m)^ *1  pipe  w  +pipe:\[7\]")
        self.assertIn("kernel      6.1.0", shown)

    def test_show_joins_mappings_of_one_file(self):
        shown = self.run_command("show", "full").stdout
        self.assertIn("\nMappings of 100 sh\n", shown)
        self.assertRegex(shown, r"(?m)^000000400000 +2  12.0 KiB  8.0 KiB  file       /usr/bin/sh$")
        self.assertRegex(shown, r"(?m)^000000601000 +2  12.0 KiB  8.0 KiB  anonymous$")
        self.assertRegex(shown, r"(?m)^000000700000 +1   4.0 KiB  4.0 KiB  anonymous$")
        self.assertIn("\nMappings of 103 leaf\n", shown)
        shown = self.run_command("show", "full", "--verbose").stdout
        self.assertRegex(shown, r"(?m)^000000400000-000000402000  8.0 KiB  r-xp      1  file       /usr/bin/sh$")
        self.assertRegex(shown, r"(?m)^000000700000-000000701000  4.0 KiB  rw-p      1  anonymous$")

    def test_show_says_what_is_unusual(self):
        shown = self.run_command("show", "damaged").stdout
        self.assertIn("What is in its images is not told: core-7.img: \\x1b broken", shown)
        self.assertIn("Its processes were not all its owner's.", shown)
        self.assertNotIn("Not told by this service", shown)
        self.assertNotIn("complete", shown)
        self.assertIn("There is more in it than the service tells at once.", self.run_command("show", "huge").stdout)

    def test_show_without_unicode(self):
        shown = self.run_command("show", "full", env=dict(self.bus.env, LC_ALL="C")).stdout
        self.assertRegex(shown, r"(?m)^\|  `- 103 leaf ")

    def test_show_keeps_escapes_from_the_terminal(self):
        shown = self.run_command("show", "full").stdout
        self.assertNotIn("\x1b", shown)
        self.assertIn("\\x1b[31mred", shown)

    def test_show_says_what_is_not_told(self):
        self.assertIn("Not told by this service: the tree of tasks.", self.run_command("show", "plain").stdout)

    def test_show_json(self):
        shown = json.loads(self.run_command("show", "full", "--json").stdout)
        self.assertEqual(shown["tasks"][1]["comm"], "\x1b[31mred")
        self.assertEqual(shown["mappings"][0]["start"], 0x400000)

    def test_explain(self):
        self.assertEqual(self.run_command("explain", "8").returncode, 0)
        done = self.run_command("explain", "7")
        self.assertEqual(done.returncode, 7)
        self.assertIn("pid 7 (x) fd 3: socket\n  its peer is outside\n  cure: close it\n", done.stdout)
        self.assertEqual(len(json.loads(self.run_command("explain", "7", "--json").stdout)), 2)

    def test_remove_goes_on_after_a_failure(self):
        done = self.run_command("remove", "a", "nothing", "b")
        self.assertEqual((done.returncode, done.stdout), (5, "removed a\nremoved b\n"))

    def test_jobs(self):
        self.assertEqual(self.run_command("jobs").stdout, "no jobs\n")
        self.run_command("dump", "42", "mine")
        lines = self.run_command("jobs").stdout.splitlines()
        self.assertEqual(lines[1].split(), ["1", "dump", "42", "mine", "root", "done"])

    def test_check(self):
        done = self.run_command("check")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"(?m)^pagemap-scan +yes$")
        self.assertEqual(json.loads(self.run_command("check", "--json").stdout)["usable"], True)

    def test_monitor(self):
        process = self.start("monitor", "--json")
        self.wait_for_call("Subscribe")
        self.run_command("dump", "42", "mine")
        missing = {"JobNew", "PropertiesChanged"}
        for line in process.stdout:
            missing.discard(json.loads(line)["signal"])
            if not missing:
                break
        self.assertEqual(missing, set())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, errors)


class Documentation(CommandCase):
    def options(self):
        helped = self.run_command("--help").stdout
        return sorted(set(re.findall(r"--[a-z-]+", helped)))

    def test_man_page_and_completion_know_every_option(self):
        with open(f"{TREE}/docs/man/checkpoint.1", encoding="utf-8") as file:
            manual = file.read().replace("\\-", "-")
        with open(f"{TREE}/tools/checkpoint/checkpoint.bash", encoding="utf-8") as file:
            completion = file.read()
        for option in self.options():
            self.assertIn(option, manual)
            self.assertIn(option, completion)

    def test_man_page_knows_every_status(self):
        with open(f"{TREE}/tools/checkpoint/report.h", encoding="utf-8") as file:
            statuses = re.findall(r"STATUS_\w+ = (\d+)", file.read())
        with open(f"{TREE}/docs/man/checkpoint.1", encoding="utf-8") as file:
            manual = file.read()
        self.assertEqual(len(statuses), 10)
        for status in statuses:
            self.assertIn(f"\n.B {status}\n", manual)

    def complete(self, *words):
        script = (f"source {TREE}/tools/checkpoint/checkpoint.bash; COMP_WORDS=(\"$@\"); "
                  "COMP_CWORD=$(($# - 1)); _checkpoint; printf '%s\\n' \"${COMPREPLY[@]}\"")
        env = dict(self.bus.env, PATH=f"{os.path.dirname(COMMAND)}:{os.environ['PATH']}")
        return subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, env=env,
                              check=True).stdout.split()

    def test_completion(self):
        self.assertEqual(self.complete("checkpoint", "re"), ["restore", "remove"])
        self.assertEqual(self.complete("checkpoint", "restore", "f"), ["first"])
        self.assertEqual(self.complete("checkpoint", "dump", "--sh"), ["--shell-job"])
        self.assertEqual(self.complete("checkpoint", "--owner", "root", "sh"), ["show"])
        self.assertIn(str(os.getpid()), self.complete("checkpoint", "dump", str(os.getpid())[:2]))


if __name__ == "__main__":
    tap.main()
