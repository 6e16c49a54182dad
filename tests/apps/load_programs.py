# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs at work: builds, editors, screens, machines."""
import hashlib
import os
import re
import subprocess
import time

from loaded import HERE, PYTHON, ROUNDS, Load, descendants, find, free_port, needs, read, running, wait_until


class Programs(Load):
    options = ("--tcp-established", "--skip-in-flight", "--file-locks")

    # --- a build ---

    def sources(self, number):
        """A program of many files; prints a number that can be told without it."""
        total = 0
        os.mkdir(self.path("src"))
        for i in range(number):
            body = "".join(f"static int g{k}(int x) {{ int t = {i * k}; for (int j = 0; j < x; j++) t = t * 3 % 1000 + j; return t; }}\n"
                           for k in range(60))
            self.write(f"src/f{i}.c", f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{body}"
                       f"int f{i}(void) {{ return {' + '.join(f'g{k}(10)' for k in range(60))}; }}\n")
            for k in range(60):
                t = i * k
                for j in range(10):
                    t = t * 3 % 1000 + j
                total += t
        self.write("src/main.c", "#include <stdio.h>\n" + "".join(f"int f{i}(void);\n" for i in range(number)) +
                   f"int main(void) {{ printf(\"%d\\n\", {' + '.join(f'f{i}()' for i in range(number))}); return 0; }}\n")
        objects = " ".join(f"f{i}.o" for i in range(number)) + " main.o"
        self.write("src/Makefile", f"prog: {objects}\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O2 -pipe -Wall -c -o $@ $<\n")
        return total

    @needs("make", "gcc")
    def test_make(self):
        """make -j2 with gcc, dumped again and again until the program is built; it must be right."""
        number = 12 * (1 + ROUNDS)
        total = self.sources(number)
        done = 0
        self.tree("make", "-j2", "-C", "src", env={"CC": "gcc"})
        while done < ROUNDS or self.alive():
            time.sleep(0.1 + 0.4 * self.random.random())
            if not self.alive():
                break
            try:
                if done % 3 == 2:
                    self.once_running()
                else:
                    self.once()
            except AssertionError:
                if self.alive() or not os.path.exists(self.path("src/prog")):
                    raise
            done += 1
            if done >= ROUNDS:
                break
        self.assertGreaterEqual(done, min(ROUNDS, 3), "it was over too soon")
        self.assertTrue(wait_until(lambda: not self.alive(), 300))
        self.assertNotRegex(self.output(), r"Error|\*\*\*|warning")
        self.assertEqual(self.run_tool(self.path("src/prog")), f"{total}\n")

    @needs("sccache", "gcc")
    def test_sccache(self):
        """A server of Rust's tokio; compilers of the same tree ask it over TCP, and it runs them. They ask again when their
        connection was one that nobody had accepted yet."""
        port = free_port()
        os.mkdir(self.path("cache"))
        client = self.write("client.sh", f"for i in $(seq {15 * (1 + ROUNDS)}); do echo \"int f(void) {{ return $((i % 20)); }}\" >$1.c\n"
                            "n=0; until sccache gcc -O2 -c $1.c -o $1.o; do n=$((n + 1)); [ $n -lt 9 ] || exit 1; done\n"
                            "cp $1.o $1-$i.o || exit 1; done\n")
        self.serve(port, "sh", "-c", "SCCACHE_START_SERVER=1 SCCACHE_NO_DAEMON=1 sccache & until [ -e go ]; do sleep 0.1; done;"
                   f"sh {client} a & a=$!; sh {client} b & b=$!; wait $a && wait $b && touch done; wait",
                   env={"SCCACHE_DIR": self.path("cache"), "SCCACHE_SERVER_PORT": str(port)})
        self.write("go", "")
        self.rounds()
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("done"))), self.output())
        for i in (1, 7, 21):
            self.assertIn(f"${i % 20:#x}", self.run_tool("objdump", "-d", f"a-{i}.o"))

    @needs("xz")
    def test_xz_threads(self):
        """Four threads of a compressor, and the reader behind the pipe."""
        digest = hashlib.sha256()
        with open(self.path("source"), "wb") as f:
            for i in range(400 * (1 + ROUNDS)):
                block = hashlib.sha512(str(i % 300).encode()).digest() * 600 + os.urandom(500)
                digest.update(block)
                f.write(block)
        self.tree("sh", "-c", "xz -T4 -6 --block-size=1MiB -c source | tee packed | xz -dc | sha256sum > sum")
        for i in range(ROUNDS):
            time.sleep(0.15 * (0.5 + self.random.random()))
            if not self.alive():
                break
            self.once()
        self.assertGreater(self.number, 0)
        self.assertTrue(wait_until(lambda: not self.alive(), 300))
        self.assertEqual(read(self.path("sum")).split()[:1], [digest.hexdigest()], self.output())
        done = subprocess.run(["xz", "-dc", self.path("packed")], capture_output=True, check=True)
        self.assertEqual(hashlib.sha256(done.stdout).hexdigest(), digest.hexdigest())

    @needs("ffmpeg")
    def test_ffmpeg(self):
        """An encoder in the middle of its work: the result is the one it gives undisturbed."""
        command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", f"testsrc=size=640x360:rate=25:duration={10 + 10 * ROUNDS}", "-threads",
                   "4", "-c:v", "mpeg4", "-bitexact", "-f", "avi", "-y"]
        self.tree(*command, "out.avi")
        for _ in range(ROUNDS):
            time.sleep(0.2 * (0.5 + self.random.random()))
            if not self.alive():
                break
            self.once()
        self.assertGreater(self.number, 0)
        self.assertTrue(wait_until(lambda: not self.alive(), 300))
        self.assertEqual(self.output(), "")
        self.run_tool(*command, "again.avi")
        with open(self.path("out.avi"), "rb") as a, open(self.path("again.avi"), "rb") as b:
            self.assertEqual(hashlib.sha256(a.read()).digest(), hashlib.sha256(b.read()).digest())

    # --- terminals ---

    def screen(self, *command):
        """A terminal in the tree, see terminals; keys are typed through a FIFO."""
        os.mkfifo(self.path("keys"))
        self.tree(PYTHON, os.path.join(HERE, "terminals"), "host", self.dir, *command)

    def keys(self, text):
        fd = os.open(self.path("keys"), os.O_RDWR)
        os.write(fd, text.encode())
        os.close(fd)

    def shows(self, pattern, then=0):
        return wait_until(lambda: re.search(pattern, read(self.path("screen"))[then:]))

    @needs("tmux", "vim", "htop")
    def test_tmux_vim_htop(self):
        """The server with its three windows, and a client on a terminal: one tree."""
        self.write("tmux.conf", "new-session -d -x 90 -y 30 'exec vim -u NONE -i NONE -n text'\nnew-window -d 'exec htop -d 1'\n"
                   "new-window 'n=0; while :; do n=$((n + 1)); echo $n ok; echo $n ok >>lines; done'\n")
        self.screen("sh", "-c", "tmux -D -S tmux -f tmux.conf </dev/null >server 2>&1 & until tmux -S tmux has-session 2>/dev/null; do :; done; exec tmux -S tmux attach")

        def pane(window):
            return self.run_tool("tmux", "-S", "tmux", "capture-pane", "-p", "-t", f":{window}")

        def keys(*words):
            self.run_tool("tmux", "-S", "tmux", "send-keys", "-t", ":0", *words)

        self.assertTrue(wait_until(lambda: read(self.path("screen")).count("\n") > 50), self.output())
        keys("itext")
        text = ["text"]

        def check():
            keys(f" {self.number}")
            text.append(f" {self.number}")
            self.assertTrue(wait_until(lambda: "".join(text) in pane(0)), pane(0))
            then, shown, lines = pane(1), len(read(self.path("screen"))), len(read(self.path("lines")))
            self.assertTrue(wait_until(lambda: pane(1) != then and "PID" in pane(1)), pane(1))
            self.assertTrue(wait_until(lambda: len(read(self.path("screen"))) > shown and len(read(self.path("lines"))) > lines))

        check()
        self.rounds(check)
        for i, line in enumerate(read(self.path("lines")).splitlines()[:-1], 1):
            self.assertEqual(line, f"{i} ok")
        keys("Escape", ":wq", "Enter")
        self.assertTrue(wait_until(lambda: read(self.path("text")) == "".join(text) + "\n"), read(self.path("text")))

    @needs("emacs")
    def test_emacs(self):
        """Text is typed into it, while Lisp timers and a process of its own write."""
        self.write("init.el", """
(setq n 0) (run-at-time 0 0.02 (lambda () (setq n (1+ n)) (write-region (format "%d ok\\n" n) nil "lines" 'append 'quiet)))
(setq p (start-process "cat" nil "cat")) (setq echoed 0)
(set-process-filter p (lambda (p s) (setq echoed (+ echoed (length s)))))
(run-at-time 0 0.01 (lambda () (process-send-string p "0123456789\\n")))
""")
        self.screen("emacs", "-nw", "-Q", "-l", "init.el", "text")
        self.assertTrue(wait_until(lambda: read(self.path("lines")).count("\n") > 10), self.output())
        text = []

        def check():
            self.keys(f"word{self.number} ")
            text.append(f"word{self.number} ")
            then = len(read(self.path("lines")))
            self.assertTrue(wait_until(lambda: len(read(self.path("lines"))) > then))

        check()
        self.rounds(check)
        self.keys("\x18\x13")
        self.assertTrue(wait_until(lambda: read(self.path("text")).rstrip("\n") == "".join(text)), read(self.path("text")))
        for i, line in enumerate(read(self.path("lines")).splitlines()[:-1], 1):
            self.assertEqual(line, f"{i} ok")

    @needs("Xvfb", "xterm", "xwininfo", "xwd")
    def test_xvfb_xterm(self):
        """A display, a terminal on it in which lines run, and a clock."""
        number = next(n for n in range(self.random.randrange(1000, 5000), 9000) if not os.path.exists(f"/tmp/.X{n}-lock"))
        display = f":{number}"
        for path in (f"/tmp/.X{number}-lock", f"/tmp/.X11-unix/X{number}"):
            self.addCleanup(lambda p=path: os.path.exists(p) and os.unlink(p))
        self.write("lines.sh", "n=0; while :; do n=$((n + 1)); echo $n ok; echo $n ok >>lines; done\n")
        self.tree("sh", "-c", f"Xvfb {display} -screen 0 640x480x24 -nolisten tcp & until [ -S /tmp/.X11-unix/X{number} ]; do :; done;"
                  f"xterm -display {display} -T lines -e sh lines.sh & xclock -display {display} -update 1 -geometry 100x100+500+300 & wait")
        self.assertTrue(wait_until(lambda: read(self.path("lines")).count("\n") > 50), self.output())

        def tool(*words):
            return subprocess.run([words[0], "-display", display, *words[1:]], capture_output=True, check=True, timeout=60).stdout

        self.assertTrue(wait_until(lambda: b"xclock" in tool("xwininfo", "-root", "-tree")))
        windows = re.findall(rb"(0x[0-9a-f]+) \"", tool("xwininfo", "-root", "-tree"))

        def check():
            then, picture = len(read(self.path("lines"))), tool("xwd", "-root")
            self.assertTrue(wait_until(lambda: len(read(self.path("lines"))) > then))
            self.assertEqual(re.findall(rb"(0x[0-9a-f]+) \"", tool("xwininfo", "-root", "-tree")), windows)
            self.assertTrue(wait_until(lambda: tool("xwd", "-root") != picture), "the picture stands still")

        check()
        self.rounds(check)
        for i, line in enumerate(read(self.path("lines")).splitlines()[:-1], 1):
            self.assertEqual(line, f"{i} ok")

    # --- machines ---

    def grows(self, name="output"):
        then = read(self.path(name)).count("\n")
        self.assertTrue(wait_until(lambda: read(self.path(name)).count("\n") > then + 3 or not self.alive()), self.output())
        for i, line in enumerate(read(self.path(name)).splitlines()[:-1], 1):
            self.assertEqual(line, f"{i} ok")

    @needs("qemu-x86_64-static", "perl")
    def test_qemu_user(self):
        """A program with signals and children, each system call of which is emulated."""
        code = ("use Time::HiRes 'setitimer', 'ITIMER_REAL'; $| = 1; my ($n, $a) = (0, 0); $SIG{ALRM} = sub { $a++ }; setitimer(ITIMER_REAL, 0.01, 0.01);"
                "my %h = map { $_ => $_ * 3 } 1 .. 20000; while (1) { $n++; my $b = $a; 1 while $a == $b; my $k = 1 + $n * 7919 % 20000;"
                "if ($h{$k} != $k * 3 || ($n % 20 == 0 && `echo hello` ne qq(hello\\n))) { print qq(bad\\n); exit 9 } print qq($n ok\\n) }")
        self.tree("qemu-x86_64-static", "/usr/bin/perl", "-e", code)
        self.grows()
        self.rounds(self.grows)

    KERNEL = r"""
typedef unsigned char u8; typedef unsigned int u32;
__attribute__((section(".multiboot"), used)) static const u32 header[3] = {0x1badb002, 0, -0x1badb002u};
static void out(u32 port, u8 v) { __asm__ volatile("outb %b0, %w1" : : "a"(v), "Nd"(port)); }
static u8 in(u32 port) { u8 v; __asm__ volatile("inb %w1, %b0" : "=a"(v) : "Nd"(port)); return v; }
static void put(char c) { while (!(in(0x3fd) & 0x20)) ; out(0x3f8, (u8)c); }
static void number(u32 n) { if (n > 9) number(n / 10); put((char)('0' + n % 10)); }
static u32 memory[1 << 20];
__attribute__((used)) static u32 stack[4096];
__attribute__((used)) static void run(void) {
  for (u32 i = 0; i < 1 << 20; i++) memory[i] = i * 2654435761u;
  for (u32 n = 1;; n++) {
    for (u32 i = n % 16; i < 1 << 20; i += 16) if (memory[i] != i * 2654435761u) { put('b'); put('a'); put('d'); put('\n'); for (;;) ; }
    number(n); put(' '); put('o'); put('k'); put('\n');
  }
}
__asm__(".global _start\n_start: mov $stack + 16384, %esp\ncall run\n");
"""

    @needs("qemu-system-x86_64", "gcc", "ld")
    def test_qemu_system(self):
        """A machine with a kernel of its own, which tests its memory and writes to its serial line; nothing of KVM."""
        self.write("kernel.c", self.KERNEL)
        self.run_tool("gcc", "-m32", "-O2", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fcf-protection=none", "-mno-sse",
                      "-c", "kernel.c")
        self.write("kernel.ld", "ENTRY(_start) SECTIONS { . = 1M; .text : { *(.multiboot) *(.text*) } .data : { *(.data* .rodata*) } .bss : { *(.bss*) } /DISCARD/ : { *(.note*) *(.eh_frame) *(.comment) } }")
        self.run_tool("ld", "-m", "elf_i386", "-T", "kernel.ld", "-o", "kernel", "kernel.o")
        self.tree("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot",
                  "-serial", "file:lines", "-monitor", "unix:monitor,server=on,wait=off", "-kernel", "kernel")
        self.grows("lines")
        self.rounds(lambda: self.grows("lines"))


if __name__ == "__main__":
    raise SystemExit("run by load")
