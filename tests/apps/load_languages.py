# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runtimes: garbage collectors, schedulers, timers and children of their own, at work when they are dumped."""
import os
import re
import time

from load_web import Checker
from loaded import PYTHON, ROUNDS, Load, find, free_port, needs, read, wait_until


class Languages(Load):
    options = ("--tcp-established", "--skip-in-flight", "--file-locks")

    def grows(self, name="output", number=3):
        """It writes lines "N ok", from 1 on, none left out, none twice; anything else is a complaint."""
        then = read(self.path(name)).count("\n")
        self.assertTrue(wait_until(lambda: read(self.path(name)).count("\n") > then + number or not self.alive()),
                        f"it stands still: {self.output()}")
        for i, line in enumerate(read(self.path(name)).splitlines()[:-1], 1):
            self.assertEqual(line, f"{i} ok")

    def program(self, *command, pause=0.3, **options):
        self.tree(*command, **options)
        self.grows()
        self.rounds(self.grows, pause)

    def served(self, port, *command):
        """A server whose every answer is "right"; its own output is lines."""
        self.serve(port, *command)
        checker = Checker(port, {"/": b"right"}, 6)
        checker.must_go_on()
        self.grows()
        self.rounds(lambda: (checker.must_go_on(), self.grows()))
        checker.end()

    NODE = r"""
const http = require('http'), { spawn } = require('child_process'), { Worker, isMainThread, parentPort } = require('worker_threads');
const fs = require('fs'), crypto = require('crypto');
if (!isMainThread) {
  parentPort.on('message', (n) => { let a = []; for (let i = 0; i < 5000; i++) a.push({ n: n, i: i });
    parentPort.postMessage(a.reduce((s, x) => s + x.i, 0) === 12497500 ? n : -1); });
} else {
  let ticks = 0, last = 0, asked = 0, answered = 0, echoed = 0, written = 0, files = 0;
  const bad = (why) => { fs.writeSync(1, 'bad: ' + why + '\n'); process.exit(9); };
  const worker = new Worker(process.argv[1]);
  worker.on('message', (n) => { if (n !== answered + 1) bad('worker ' + n); answered = n; });
  const cat = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
  let rest = '';
  cat.stdout.on('data', (d) => { rest += d; const lines = rest.split('\n'); rest = lines.pop();
    for (const l of lines) { echoed++; if (l !== 'line ' + echoed) bad('cat ' + l); } });
  cat.on('exit', () => bad('cat is dead'));
  setInterval(() => { ticks++; for (let i = 0; i < 20; i++) cat.stdin.write('line ' + (++written) + '\n');
    if (asked === answered) worker.postMessage(++asked); }, 5);
  setInterval(() => fs.readFile(process.argv[1], (e) => { if (e) bad(e); files++; }), 7);
  setInterval(() => spawn('true').on('exit', (c) => { if (c) bad('true ' + c); }), 50);
  setInterval(() => crypto.pbkdf2('a', 'b', 1000, 32, 'sha256', (e) => { if (e) bad(e); }), 11);
  setInterval(() => { last++; fs.writeSync(1, last + ' ok\n'); }, 20);
  const server = http.createServer((q, r) => setTimeout(() => r.end('right'), 3));
  server.keepAliveTimeout = 0; server.requestTimeout = 0; server.headersTimeout = 0;
  server.listen(+process.argv[2], '127.0.0.1');
}
"""

    @needs("node")
    def test_node(self):
        """HTTP, timers, the thread pool, a worker, a child that echoes, and children that come and go."""
        port = free_port()
        self.served(port, "node", self.write("server.js", self.NODE), str(port))

    ASYNCIO = r"""
import asyncio, os, random, sys, threading
port, mode = int(sys.argv[1]), sys.argv[2]
if mode == "pidfd":
    watcher = asyncio.PidfdChildWatcher()
    asyncio.set_child_watcher(watcher)

def bad(why):
    os.write(1, ("bad: %s\n" % (why,)).encode())
    os._exit(9)

async def http(reader, writer):
    try:
        while (line := await reader.readline()):
            while (await reader.readline()).strip():
                pass
            await asyncio.sleep(0.002)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright")
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError) as e:
        bad(e)
    writer.close()

async def echo(reader, writer):
    while (data := await reader.read(4096)):
        writer.write(data)
        await writer.drain()

async def talk(path):
    reader, writer = await asyncio.open_unix_connection(path)
    while True:
        data = os.urandom(random.randrange(1, 100000))
        writer.write(data)
        if await reader.readexactly(len(data)) != data:
            bad("echo")

async def children():
    while True:
        p = await asyncio.create_subprocess_exec("sh", "-c", "read x; echo $x; exit 7", stdin=-1, stdout=-1)
        out, _ = await p.communicate(b"hello\n")
        if (out, p.returncode) != (b"hello\n", 7):
            bad((out, p.returncode))

async def threads():
    loop = asyncio.get_running_loop()
    while True:
        if await loop.run_in_executor(None, sum, range(20000)) != 199990000:
            bad("sum")

async def main():
    tasks = [await asyncio.start_server(http, "127.0.0.1", port), await asyncio.start_unix_server(echo, "echo.sock")]
    for work in (talk("echo.sock"), talk("echo.sock"), children(), children(), threads()):
        t = asyncio.ensure_future(work)
        t.add_done_callback(lambda t: bad(repr(t)))
        tasks.append(t)
    n = 0
    while True:
        await asyncio.sleep(0.02)
        n += 1
        os.write(1, b"%d ok\n" % n)

asyncio.run(main())
"""

    def test_asyncio(self):
        """Streams over TCP and unix sockets, timers, children that a thread waits for, an executor."""
        port = free_port()
        self.served(port, PYTHON, self.write("server.py", self.ASYNCIO), str(port), "threads")

    def test_asyncio_with_pidfds(self):
        port = free_port()
        self.served(port, PYTHON, self.write("server.py", self.ASYNCIO), str(port), "pidfd")

    MULTIPROCESSING = r"""
import multiprocessing as mp, os, sys, time
from multiprocessing import shared_memory

def bad(why):
    os.write(1, ("bad: %s\n" % (why,)).encode())
    os._exit(9)

def square(x):
    return x * x

def work(name, lock, total, queue, event):
    memory = shared_memory.SharedMemory(name)
    event.wait()
    for _ in iter(int, 1):
        with lock:
            n = int.from_bytes(memory.buf[:8], "little") + 1
            memory.buf[:8] = n.to_bytes(8, "little")
            total.value += 1
            if total.value != n:
                bad((total.value, n))
        queue.put(n)
        time.sleep(0.001)

if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    memory = shared_memory.SharedMemory(create=True, size=4096)
    lock, total, queue, event = mp.Lock(), mp.Value("q", 0), mp.Queue(1000), mp.Event()
    ps = [mp.Process(target=work, args=(memory.name, lock, total, queue, event), daemon=True) for _ in range(4)]
    for p in ps:
        p.start()
    with mp.Pool(3) as pool:
        event.set()
        seen, n = set(), 0
        while True:
            n += 1
            if pool.map(square, range(200), 7) != [x * x for x in range(200)]:
                bad("map")
            for _ in range(10):
                x = queue.get(timeout=60)
                if x in seen:
                    bad(x)
                seen.add(x)
            if not all(p.is_alive() for p in ps):
                bad("a process is dead")
            os.write(1, b"%d ok\n" % n)
"""

    def test_multiprocessing_fork(self):
        """POSIX semaphores, shared memory, queues, a pool."""
        self.program(PYTHON, self.write("m.py", self.MULTIPROCESSING), "fork")

    def test_multiprocessing_forkserver(self):
        self.program(PYTHON, self.write("m.py", self.MULTIPROCESSING), "forkserver")

    JAVA = r"""
import com.sun.net.httpserver.*;
import java.io.*;
import java.net.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
public class Server {
  static void bad(String why) { System.out.println("bad: " + why); System.out.flush(); Runtime.getRuntime().halt(9); }
  public static void main(String[] a) throws Exception {
    Thread.setDefaultUncaughtExceptionHandler((t, e) -> bad(t + " " + e));
    HttpServer s = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(a[0])), 50);
    s.createContext("/", x -> { byte[] b = "right".getBytes(); x.sendResponseHeaders(200, b.length); x.getResponseBody().write(b); x.close(); });
    s.setExecutor(Executors.newFixedThreadPool(8));
    s.start();
    int threads = Integer.parseInt(a[1]);
    AtomicLongArray work = new AtomicLongArray(threads);
    for (int t = 0; t < threads; t++) {
      final int me = t;
      new Thread(() -> {
        Map<Integer, String> m = new HashMap<>();
        for (long n = 0;; n++) {
          for (int i = 0; i < 200; i++) m.put((int) ((n * 200 + i) % 5000), "value " + (n * 200 + i) % 5000);
          for (var e : m.entrySet()) if (!e.getValue().equals("value " + e.getKey())) bad("heap");
          work.incrementAndGet(me);
          if (threads > 20) try { Thread.sleep(20); } catch (InterruptedException e) { bad("interrupted"); }
        }
      }, "worker-" + t).start();
    }
    ScheduledExecutorService timer = Executors.newScheduledThreadPool(2);
    AtomicLong lines = new AtomicLong();
    timer.scheduleAtFixedRate(() -> { synchronized (lines) { System.out.println(lines.incrementAndGet() + " ok"); System.out.flush(); } }, 0, 20, TimeUnit.MILLISECONDS);
    while (true) {
      Process p = new ProcessBuilder("echo", "hello").start();
      String l = new BufferedReader(new InputStreamReader(p.getInputStream())).readLine();
      if (p.waitFor() != 0 || !"hello".equals(l)) bad("child " + l);
      Thread.sleep(100);
    }
  }
}
"""

    def java(self, *options, threads=6):
        port = free_port()
        self.write("Server.java", self.JAVA)
        self.run_tool("javac", "Server.java")
        self.served(port, "java", "-Xmx256m", *options, "-Xlog:disable", "-cp", self.dir, "Server", str(port), str(threads))

    @needs("java", "javac")
    def test_java_g1(self):
        self.java("-XX:+UseG1GC")

    @needs("java", "javac")
    def test_java_zgc(self):
        self.java("-XX:+UseZGC")

    @needs("java", "javac")
    def test_java_shenandoah_200_threads(self):
        self.java("-XX:+UseShenandoahGC", threads=200)

    GO = r"""
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"
)

func bad(why ...any) { fmt.Println("bad:", fmt.Sprint(why...)); os.Exit(9) }

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Millisecond); fmt.Fprint(w, "right") })
	go func() { bad(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil)) }()
	in, out := make(chan int), make(chan int)
	for i := 0; i < 200; i++ {
		go func() { for x := range in { m := map[int][]byte{}; for k := 0; k < 50; k++ { m[k] = make([]byte, 1000) }; out <- x*x + len(m) - 50 } }()
	}
	var mu sync.Mutex
	total := 0
	for g := 0; g < 4; g++ {
		go func() { for { s := 0; for i := 0; i < 100000; i++ { s += i }; if s != 4999950000 { bad("sum") }; mu.Lock(); total++; mu.Unlock(); time.Sleep(time.Microsecond) } }()
	}
	go func() {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			o, err := exec.CommandContext(ctx, "echo", "hello").Output()
			cancel()
			if err != nil || string(o) != "hello\n" { bad(err, o) }
			time.Sleep(30 * time.Millisecond)
		}
	}()
	n := 0
	for range time.Tick(10 * time.Millisecond) {
		sum := 0
		go func() { for i := 0; i < 1000; i++ { in <- i } }()
		for i := 0; i < 1000; i++ { sum += <-out }
		if sum != 332833500 { bad("squares", sum) }
		n++
		fmt.Println(n, "ok")
	}
}
"""

    @needs("go")
    def test_go(self):
        """Goroutines, channels, timers, preemption by signals, children, HTTP."""
        port = free_port()
        self.write("server.go", self.GO)
        self.run_tool("go", "build", "-o", "server", "server.go")
        self.served(port, self.path("server"), str(port))

    ERLANG = r"""
-module(server).
-export([start/1]).
start([Port]) ->
    P = list_to_integer(atom_to_list(Port)),
    {ok, L} = gen_tcp:listen(P, [binary, {active, false}, {packet, http_bin}, {reuseaddr, true}, {ip, {127,0,0,1}}]),
    spawn_link(fun() -> accept(L) end),
    Ring = lists:foldl(fun(_, Next) -> spawn_link(fun() -> pass(Next) end) end, self(), lists:seq(1, 1000)),
    T = ets:new(t, [public]),
    [spawn_link(fun() -> timer(T, N) end) || N <- lists:seq(1, 50)],
    C = open_port({spawn, "cat"}, [binary, {line, 1000}]),
    loop(Ring, T, C, 1).
accept(L) -> {ok, S} = gen_tcp:accept(L), Pid = spawn(fun() -> receive go -> serve(S) end end), ok = gen_tcp:controlling_process(S, Pid), Pid ! go, accept(L).
serve(S) -> case gen_tcp:recv(S, 0) of
    {ok, http_eoh} -> ok = gen_tcp:send(S, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"), serve(S);
    {ok, _} -> serve(S);
    {error, _} -> ok end.
pass(Next) -> receive X -> Next ! X + 1 end, pass(Next).
timer(T, N) -> ets:update_counter(T, N, 1, {N, 0}), timer:sleep(N), timer(T, N).
loop(Ring, T, C, N) ->
    Ring ! 0,
    receive 1000 -> ok end,
    port_command(C, integer_to_list(N) ++ "\n"),
    Want = integer_to_binary(N),
    receive {C, {data, {eol, Want}}} -> ok end,
    Sum = lists:sum([X * X || X <- lists:seq(1, 1000)]),
    Sum = 333833500,
    io:format("~p ok~n", [N]),
    timer:sleep(5),
    loop(Ring, T, C, N + 1).
"""

    @needs("erl", "erlc")
    def test_erlang(self):
        port = free_port()
        self.write("server.erl", self.ERLANG)
        self.run_tool("erlc", "server.erl")
        self.served(port, "erl", "-noshell", "-noinput", "-pa", self.dir, "-s", "server", "start", str(port))

    @needs("ruby")
    def test_ruby(self):
        code = r"""
$stdout.sync = true
def bad(w) puts "bad: #{w}"; exit!(9) end
q, a = Queue.new, Queue.new
4.times { Thread.new { loop { x = q.pop; a.push(x * x) } } }
r, w = IO.pipe
pid = fork { r.close; n = 0; loop { n += 1; w.puts n; sleep 0.001 } }
w.close
h = {}; n = 0; got = 0; f = Fiber.new { loop { Fiber.yield n } }
loop do
  n += 1
  100.times { |i| q.push i }
  bad 'queue' if (1..100).sum { a.pop } != 328350
  h[n % 1000] = 'x' * (n % 977)
  bad 'heap' if h.any? { |k, v| v.size % 977 != v.size }
  5.times { got += 1; l = r.gets; bad "pipe #{l}" if l.to_i != got }
  bad 'fiber' if f.resume != n
  bad 'child' if n % 20 == 0 && `echo hello` != "hello\n"
  puts "#{n} ok"
end
"""
        self.program("ruby", "-e", code)

    @needs("perl")
    def test_perl(self):
        """Signals, alarms, children and pipes."""
        code = r"""
use strict; use Time::HiRes qw(sleep setitimer ITIMER_REAL); use POSIX ':sys_wait_h'; $| = 1;
my ($n, $alarms, $dead, $forked) = (0, 0, 0, 0);
$SIG{ALRM} = sub { $alarms++ }; $SIG{CHLD} = sub { while (waitpid(-1, WNOHANG) > 0) { $dead++ } };
setitimer(ITIMER_REAL, 0.003, 0.003);
my %h = map { $_ => $_ * 3 } 1 .. 50000;
while (1) {
  $n++; my $before = $alarms;
  unless (my $pid = fork) { die 'no fork' unless defined $pid; POSIX::_exit(0) }
  $forked++;
  1 while $alarms == $before;
  my $k = 1 + ($n * 7919) % 50000; if ($h{$k} != $k * 3 || $forked - $dead > 50) { print "bad $forked $dead\n"; exit 9 }
  print "$n ok\n";
}
"""
        self.program("perl", "-e", code)

    @needs("php")
    def test_php(self):
        code = r"""
$n = 0; $db = new SplObjectStorage(); $p = proc_open(['cat'], [['pipe', 'r'], ['pipe', 'w']], $pipes);
while (true) { $n++; $a = []; for ($i = 0; $i < 2000; $i++) $a[] = ['k' => $i, 's' => str_repeat('y', $i % 90)];
  if (array_sum(array_column($a, 'k')) != 1999000) { echo "bad\n"; exit(9); }
  fwrite($pipes[0], "line $n\n"); fflush($pipes[0]); if (fgets($pipes[1]) != "line $n\n") { echo "bad pipe\n"; exit(9); }
  echo "$n ok\n"; usleep(500); }
"""
        self.program("php", "-n", "-r", code)

    @needs("sbcl")
    def test_sbcl(self):
        code = r"""
(let ((h (make-hash-table)) (n 0) (lock (sb-thread:make-mutex)) (count 0))
  (dotimes (i 3) (sb-thread:make-thread (lambda () (loop (let ((l (loop for i below 1000 collect (* i i))))
     (unless (= (reduce #'+ l) 332833500) (format t "bad list~%") (finish-output) (sb-ext:exit :code 9 :abort t)))
     (sb-thread:with-mutex (lock) (incf count)) (sleep 0.001)))))
  (loop (incf n) (dotimes (i 2000) (setf (gethash (mod (+ i n) 5000) h) (make-string 10 :initial-element #\x)))
     (maphash (lambda (k v) (unless (string= v "xxxxxxxxxx") (format t "bad ~a~%" k) (sb-ext:exit :code 9 :abort t))) h)
     (format t "~d ok~%" n) (finish-output) (sleep 0.005)))
"""
        self.program("sbcl", "--noinform", "--non-interactive", "--no-userinit", "--eval", code)

    @needs("ocamlfind", "ocamlopt")
    def test_ocaml(self):
        self.write("a.ml", r"""
let () =
  let m = Mutex.create () and total = ref 0 and n = ref 0 in
  for _ = 1 to 4 do ignore (Thread.create (fun () -> while true do
    let l = List.init 1000 (fun i -> i * i) in
    if List.fold_left (+) 0 l <> 332833500 then (print_endline "bad"; exit 9);
    Mutex.lock m; incr total; Mutex.unlock m; Thread.delay 0.001 done) ()) done;
  while true do incr n; Printf.printf "%d ok\n%!" !n; Thread.delay 0.005 done
""")
        self.run_tool("ocamlfind", "ocamlopt", "-thread", "-package", "threads.posix,unix", "-linkpkg", "a.ml", "-o", "a")
        self.program(self.path("a"))

    @needs("guile")
    def test_guile(self):
        self.program("guile", "--no-auto-compile", "-c", r"""
(use-modules (ice-9 threads))
(define (work) (let loop () (if (not (= (apply + (map (lambda (x) (* x x)) (iota 500))) 41541750)) (begin (display "bad\n") (primitive-_exit 9)))
  (usleep 500) (loop)))
(for-each (lambda (i) (call-with-new-thread work)) (iota 3))
(let loop ((n 1)) (display n) (display " ok\n") (force-output) (usleep 3000) (loop (+ n 1)))
""")

    @needs("lua5.4")
    def test_lua(self):
        self.program("lua5.4", "-e", r"""
local n, t = 0, {}
local co = coroutine.wrap(function() local i = 0 while true do i = i + 1 coroutine.yield(i) end end)
while true do n = n + 1; for i = 1, 20000 do t[i] = {i, tostring(i)} end
  for i = 1, 20000, 97 do if t[i][2] ~= tostring(i) then print('bad') os.exit(9) end end
  if co() ~= n then print('bad') os.exit(9) end io.write(n, ' ok\n') io.flush() end
""")

    @needs("tclsh")
    def test_tcl(self):
        self.program("tclsh", self.write("a.tcl", r"""
set n 0
proc tick {} { global n; incr n; puts "$n ok"; flush stdout; after 5 tick }
proc work {} { set s 0; for {set i 0} {$i < 1000} {incr i} { incr s $i }; if {$s != 499500} { puts bad; exit 9 }; after 1 work }
proc child {} { if {[exec echo hello] ne "hello"} { puts bad; exit 9 }; after 50 child }
tick; work; child
vwait forever
"""))

    @needs("R")
    def test_r(self):
        self.program("R", "--vanilla", "--slave", "-e", "n <- 0; repeat { n <- n + 1; m <- matrix(runif(10000), 100); s <- sort(m)"
                     "; if (is.unsorted(s) || abs(sum(solve(m) %*% m) - 100) > 1e-3) quit(status = 9); cat(n, 'ok\\n'); flush(stdout()) }")

    @needs("octave-cli")
    def test_octave(self):
        self.program("octave-cli", "--norc", "--eval", "n = 0; while true; n++; m = rand(100); [l, u, p] = lu(m);"
                     "if norm(p * m - l * u) > 1e-6; exit(9); end; printf('%d ok\\n', n); fflush(stdout); end")

    @needs("mcs", "mono")
    def test_mono(self):
        """Threads, a collector that stops them by signals, timers."""
        self.write("a.cs", r"""
using System; using System.Threading; using System.Collections.Generic;
class A { static void Main() {
  for (int t = 0; t < 4; t++) { var th = new Thread(() => { while (true) { var d = new Dictionary<int, string>(); for (int i = 0; i < 1000; i++) d[i] = "v" + i;
    foreach (var e in d) if (e.Value != "v" + e.Key) { Console.WriteLine("bad"); Environment.Exit(9); } Thread.Sleep(1); } }); th.IsBackground = true; th.Start(); }
  int n = 0; while (true) { n++; GC.Collect(); Console.WriteLine(n + " ok"); Thread.Sleep(3); } } }
""")
        self.run_tool("mcs", "-out:a.exe", "a.cs")
        self.program("mono", "a.exe")

    def test_bash(self):
        """A loop that forks all the time: command substitutions, pipes, jobs, traps."""
        self.program("bash", "-c", r"""
n=0; hits=0; trap 'hits=$((hits + 1))' USR1
while :; do n=$((n + 1)); x=$(echo $n | cat | tr -d '\n'); [[ $x == "$n" ]] || { echo bad $x; exit 9; }
  (exit 3) & wait $!; [[ $? == 3 ]] || { echo bad status; exit 9; }
  before=$hits; kill -USR1 $$; [[ $hits -gt $before ]] || { echo bad trap; exit 9; }
  mapfile -t l < <(seq 100); [[ ${#l[@]} == 100 ]] || { echo bad list; exit 9; }
  echo "$n ok"; done
""")
