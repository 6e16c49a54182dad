# SPDX-License-Identifier: LGPL-2.1-or-later
"""A job of somebody's shell, dumped and restored by checkpoint(1): it comes back on another terminal, in another shell."""
import fcntl
import pty
import struct
import termios

from client_case import *

COMMAND = os.path.join(BUILD, "tools/checkpoint/checkpoint")


READER = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
print("ready")
while line := sys.stdin.readline():
    size = os.get_terminal_size()
    print(f"got {line.strip()} ({size.lines} {size.columns})")
print("over")
"""


class Terminal:
    """A user's terminal with a shell, typed into."""

    def __init__(self, case, uid, folder, rows):
        self.shown = ""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.closerange(3, 1024)
            if uid:
                os.chown(os.ttyname(0), uid, uid)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.chdir(folder)
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile"], {**os.environ, "PS1": "shell> ", "TERM": "xterm", "HOME": folder})
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        os.set_blocking(self.master, False)
        case.pids.add(self.pid)
        case.addCleanup(os.close, self.master)

    def type(self, keys):
        os.write(self.master, keys.encode())

    def look(self):
        try:
            self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
        except OSError:
            pass
        return self.shown

    def shows(self, text, times=1):
        try:
            wait_for(lambda: self.look().count(text) >= times, f"“{text}” on the terminal")
        except AssertionError as e:
            raise AssertionError(f"{e}, but: {self.shown[-2000:]!r}") from None


class ShellJob(Client):
    def terminal(self, uid, rows=24):
        terminal = Terminal(self, uid, self.home, rows)
        terminal.shows("shell> ")
        return terminal

    def job_of(self, terminal, program):
        def find():
            for pid in tree_of(terminal.pid)[1:]:
                try:
                    with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                        if f.read().strip() == program:
                            return pid
                except OSError:
                    pass
            return 0
        wait_for(find, program)
        return find()

    def move(self, uid, name, first, program):
        """Dumps the job of the first terminal, restores it on a new one."""
        pid = self.job_of(first, program)
        self.names.append((uid, name))
        done = subprocess.run([COMMAND, "dump", "--shell-job", str(pid), name], preexec_fn=self.become(uid), text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        first.shows("Killed")
        second = self.terminal(uid, rows=33)
        second.type(f"{COMMAND} restore --shell-job {name}\r")
        second.shows(f"restored {name} as process {pid}")
        self.pids.add(pid)
        return pid, second

    def check_usable(self, terminal):
        """The shell has its terminal back, as it was."""
        terminal.type("stty -a | grep -o 'isig icanon' && echo its-${PPID:+own}\r")
        terminal.shows("isig icanon\r\nits-own")

    def check_reader(self, uid):
        self.home = self.folder(f"home{uid}", uid)
        first = self.terminal(uid)
        with open(os.path.join(self.home, "reader"), "w", encoding="utf-8") as f:
            f.write(READER)
        first.type("/usr/bin/python3 -u reader\r")
        first.shows("ready")
        first.type("one\r")
        first.shows("got one (24 80)")
        pid, second = self.move(uid, f"reader{uid}", first, "python3")
        second.type("two\r")
        second.shows("got two (33 80)")
        self.assertNotEqual(os.getsid(pid), second.pid)
        second.type("\x03")
        second.shows("interrupted")
        second.type("three\r")
        second.shows("got three")
        second.type("\x04")
        second.shows("over")
        self.gone(pid)
        second.shows("shell> ", 2)
        self.check_usable(second)

    def test_reader_of_root(self):
        self.check_reader(0)

    def test_reader_of_a_user(self):
        self.check_reader(NOBODY)

    def test_vim(self):
        self.home = self.folder("home", NOBODY)
        first = self.terminal(NOBODY)
        first.type("vim -u NONE -i NONE -n text\r")
        first.shows("[New")
        first.type("ifirst half, \x1b")
        first.shows("first half,")
        pid, second = self.move(NOBODY, "vim", first, "vim")
        second.type("asecond half\x1b:wq\r")
        self.gone(pid)
        with open(os.path.join(self.home, "text"), encoding="utf-8") as f:
            self.assertEqual(f.read(), "first half, second half\n")
        second.shows("shell> ", 2)
        self.check_usable(second)

    def test_hangup(self):
        """The terminal goes away: so does what was restored on it, as any job of a terminal does."""
        self.home = self.folder("home")
        first = self.terminal(0)
        first.type("dash -c 'echo up; read x'\r")
        first.shows("up\r\n")
        pid, second = self.move(0, "hangup", first, "dash")
        os.kill(self.job_of(second, "checkpoint"), signal.SIGTERM)
        self.gone(pid)
        self.check_usable(second)

    def test_bad_terminals(self):
        """A descriptor that is no terminal, or one that is only open for reading."""
        self.home = self.folder("home")
        process = self.start("/bin/sleep", "1000")
        threading.Thread(target=process.wait).start()
        self.names.append((0, "plain"))
        self.works("Dump", dbus_u(process.pid), "plain", {})
        master, slave = pty.openpty()
        invalid = "org.freedesktop.DBus.Error.InvalidArgs"
        try:
            for fd in ["file", "/etc/passwd"], ["file", os.ttyname(slave)]:
                self.refused(invalid, "terminal", "Restore", "plain", {"terminal": fd})
        finally:
            os.close(master)
            os.close(slave)
        self.assertEqual(self.works("Restore", "plain", {}), process.pid)


if __name__ == "__main__":
    unittest.main(verbosity=2)
