# SPDX-License-Identifier: LGPL-2.1-or-later
"""Databases under load: nothing that was confirmed is lost, nothing is there twice."""
import contextlib
import os
import re
import shutil
import socket
import threading
import time
import unittest

from loaded import ROUNDS, Load, answers, find, free_port, needs, running, wait_until


class Counters:
    """Connections in threads, each counting in its own counter; every answer must be the next number."""

    def __init__(self, port, number, speak):
        self.failures = []
        self.counts = [0] * number
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(port, i, speak), daemon=True) for i in range(number)]
        for t in self.threads:
            t.start()

    def work(self, port, i, speak):
        try:
            with socket.create_connection(("127.0.0.1", port), 120) as sock:
                stream = sock.makefile("rwb")
                while not self.stop.is_set():
                    got = speak(stream, i, self.counts[i])
                    assert got == self.counts[i] + 1, f"counter {i}: {got} after {self.counts[i]}"
                    self.counts[i] += 1
        except (OSError, ValueError, AssertionError) as e:
            self.failures.append(repr(e))

    def must_go_on(self):
        before = list(self.counts)
        assert wait_until(lambda: self.failures or all(a > b for a, b in zip(self.counts, before))), "it stands still"
        assert not self.failures, self.failures

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(120)
        assert not self.failures, self.failures
        return self.counts


def count_memcached(stream, i, before):
    if not before:
        stream.write(b"set c%d 0 0 1\r\n0\r\n" % i)
        stream.flush()
        assert stream.readline() == b"STORED\r\n"
    value = os.urandom(20).hex().encode() * 50
    stream.write(b"set v%d 0 0 %d\r\n%s\r\nget v%d\r\nincr c%d 1\r\n" % (i, len(value), value, i, i))
    stream.flush()
    assert stream.readline() == b"STORED\r\n"
    assert stream.readline().startswith(b"VALUE")
    assert stream.readline() == value + b"\r\n" and stream.readline() == b"END\r\n"
    return int(stream.readline())


def count_redis(stream, i, before):
    value = os.urandom(20).hex().encode() * 50
    stream.write(b"SET v%d %s\r\nGET v%d\r\nRPUSH l%d x\r\n" % (i, value, i, i))
    stream.flush()
    assert stream.readline() == b"+OK\r\n"
    assert stream.readline() == b"$%d\r\n" % len(value) and stream.readline() == value + b"\r\n"
    return int(stream.readline()[1:])


class Databases(Load):
    options = ("--tcp-established", "--skip-in-flight", "--file-locks")

    # --- PostgreSQL ---

    def postgres(self):
        """A cluster with pgbench's tables; returns how to start the server, and its port."""
        os.chown(self.dir, *[int(x) for x in self.run_tool("stat", "-c", "%u %g", "/var/lib/postgresql").split()])
        self.port, data = free_port(), self.path("data")
        self.run_tool("initdb", "-D", data, "-A", "trust", "--no-sync", "-U", "postgres", user="postgres")
        self.server = [find("postgres"), "-D", data, "-p", str(self.port), "-k", self.dir, "-c", "fsync=off",
                       "-c", "max_wal_size=64MB", "-c", "checkpoint_timeout=30", "-c", "autovacuum_naptime=1"]

    def pgbench(self, *words):
        return ["pgbench", "-n", "-U", "postgres", "-c", "4", "-j", "2", *words, "postgres"]

    def psql(self, text):
        return self.run_tool("psql", "-h", self.dir, "-p", str(self.port), "-U", "postgres", "-Atc", text).split()

    def fill(self):
        self.run_tool("pgbench", "-i", "-q", "-h", self.dir, "-p", str(self.port), "-U", "postgres", "postgres")

    def check_balances(self, output):
        """Money is neither made nor lost, and each transaction that pgbench knows of is there."""
        done = int(re.search(r"transactions actually processed: (\d+)", output)[1])
        self.assertIn("number of failed transactions: 0 ", output)
        sums = self.psql("select sum(abalance) from pgbench_accounts; select sum(tbalance) from pgbench_tellers;"
                         "select sum(bbalance) from pgbench_branches; select sum(delta) from pgbench_history;")
        self.assertEqual(len(set(sums)), 1, sums)
        self.assertEqual(self.psql("select count(*) from pgbench_history"), [str(done)])
        self.assertGreater(done, 20)

    @needs("initdb", "pgbench")
    def test_postgresql_with_clients_outside(self):
        self.postgres()
        self.serve(self.port, *self.server, user="postgres")
        self.fill()
        bench = self.client(*self.pgbench("-h", "127.0.0.1", "-p", str(self.port), "-T", str(2 + ROUNDS)))
        bench.connected(self.port, 4)
        self.rounds()
        self.check_balances(bench.end())

    @needs("initdb", "pgbench")
    def test_postgresql_with_clients_inside(self):
        """One tree of server and clients, over a unix socket."""
        self.postgres()
        bench = self.pgbench("-h", self.dir, "-p", str(self.port), "-T", str(2 + ROUNDS))
        self.tree("bash", "-c", f"{' '.join(self.server)} & while [ ! -e go ]; do read -t 0.1 <> fifo; done;"
                  f"{' '.join(bench)} > bench 2>&1; echo $? > done; wait", user="postgres") if not os.mkfifo(self.path("fifo"), 0o666) else 0
        self.assertTrue(wait_until(lambda: answers(self.port)), self.output())
        self.fill()
        self.write("go", "")
        time.sleep(0.5)
        self.rounds()
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("done"))), self.output())
        with open(self.path("bench"), encoding="utf-8") as f:
            self.check_balances(f.read())

    @needs("initdb", "pgbench")
    def test_pgbench_itself(self):
        """The client is dumped, the server is not."""
        self.postgres()
        server = self.client(*self.server, user="postgres")
        self.assertTrue(wait_until(lambda: answers(self.port)), server.output())
        self.fill()
        self.tree(*self.pgbench("-h", "127.0.0.1", "-p", str(self.port), "-T", str(2 + ROUNDS)))
        self.rounds(server.must_run)
        self.assertTrue(wait_until(lambda: not self.alive()))
        with open(self.path("output"), encoding="utf-8") as f:
            self.check_balances(f.read())

    # --- others ---

    @needs("redis-server", "redis-benchmark")
    def test_redis(self):
        """An append-only file, and a fork that writes a dump file or rewrites the other, while two kinds of clients load it."""
        port = free_port()
        self.serve(port, "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "1 100",
                   "--dir", self.dir, "--daemonize", "no", "--rdb-key-save-delay", "200")
        total = 30000 * (1 + ROUNDS)
        bench = self.client("redis-benchmark", "-p", str(port), "-c", "20", "-P", "2", "-n", str(total), "-q", "INCR", "counter")
        counters = Counters(port, 5, count_redis)
        counters.must_go_on()
        bench.connected(port, 25)

        def cli(*words):
            return self.run_tool("redis-cli", "-p", str(port), *words).strip()

        self.rounds(lambda: (counters.must_go_on(), cli("BGREWRITEAOF")))
        bench.end()
        counts = counters.end()
        self.assertEqual(cli("GET", "counter"), str(total))
        self.assertEqual([int(cli("LLEN", f"l{i}")) for i in range(5)], counts)
        self.assertTrue(wait_until(lambda: "aof_rewrite_in_progress:0" in cli("INFO", "persistence")))
        cli("DEBUG", "RELOAD")
        self.assertEqual(cli("GET", "counter"), str(total))

    @needs("memcached")
    def test_memcached(self):
        port = free_port()
        self.serve(port, "memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "4", "-u", "nobody")
        counters = Counters(port, 12, count_memcached)
        counters.must_go_on()
        self.rounds(counters.must_go_on)
        counts = counters.end()
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            stream = sock.makefile("rwb")
            for i, count in enumerate(counts):
                stream.write(b"get c%d\r\n" % i)
                stream.flush()
                stream.readline()
                self.assertEqual(int(stream.readline()), count)
                stream.readline()

    TRANSFERS = """
create table account (id int primary key, balance int) engine=innodb;
create table history (id int auto_increment primary key, a int, b int, amount int) engine=innodb;
insert into account select seq, 1000 from seq_1_to_100;
delimiter //
create procedure work(n int)
begin
  declare i int default 0; declare x int; declare y int; declare amount int;
  while i < n do
    set x = 1 + floor(rand() * 100), y = 1 + floor(rand() * 100), amount = floor(rand() * 50), i = i + 1;
    start transaction;
    update account set balance = balance - amount where id = least(x, y);
    update account set balance = balance + amount where id = greatest(x, y);
    insert into history (a, b, amount) values (least(x, y), greatest(x, y), amount);
    commit;
  end while;
  select 'done';
end //
delimiter ;
"""

    @needs("mariadbd", "mariadb-install-db", "mariadb")
    def test_mariadb(self):
        port, data, sock = free_port(), self.path("data"), self.path("sock")
        os.mkdir(data)
        for path in (self.dir, data):
            shutil.chown(path, "mysql", "mysql")
        self.run_tool("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
                      "--skip-test-db", "--innodb-flush-log-at-trx-commit=2", user="mysql")
        self.serve(port, "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={sock}", f"--port={port}",
                   "--bind-address=127.0.0.1", "--innodb-use-native-aio=0", "--innodb-flush-log-at-trx-commit=2",
                   "--innodb-buffer-pool-size=32M", "--connect-timeout=300", "--net-read-timeout=300", user="mysql")

        def sql(text):
            return self.run_tool("mariadb", "--no-defaults", "-u", "root", "-S", sock, "-N", "test", stdin=text).split()

        self.run_tool("mariadb", "--no-defaults", "-u", "root", "-S", sock, "-e", "create database test")
        sql(self.TRANSFERS)
        each = 1000 * (2 + ROUNDS)
        clients = [self.client("mariadb", "--no-defaults", "-u", "root", "-h", "127.0.0.1", "-P", str(port), "-e",
                               f"call work({each})", "test") for _ in range(4)]
        for c in clients:
            c.connected(port, len(clients))
        self.rounds()
        for c in clients:
            self.assertIn("done", c.end())
        self.assertEqual(sql("select sum(balance), count(*) from account; select count(*) from history"),
                         ["100000", "100", str(4 * each)])
        self.assertEqual(sql("select count(*) from account, (select id, sum(d) s from (select a id, -amount d from history"
                             " union all select b, amount from history) m group by id) t where account.id = t.id and balance <> 1000 + s"), ["0"])
        self.assertEqual(sql("check table account, history")[3::4][:2], ["OK", "OK"])

    SQLITE = r"""
import sqlite3, sys, random, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("pragma journal_mode=" + sys.argv[2]); db.execute("pragma synchronous=off")
who = int(sys.argv[3])
db.execute("create table if not exists t(who, n, pad, primary key (who, n))")
n = 0
out = open(sys.argv[4], "w")
while True:
    db.execute("begin immediate")
    for _ in range(20):
        n += 1
        db.execute("insert into t values (?, ?, ?)", (who, n, "x" * random.randrange(500)))
    db.execute("delete from t where who = ? and n % 7 = 3 and n > ?", (who, n - 100))
    db.execute("commit")
    out.seek(0); out.write("%d\n" % n); out.flush()
    time.sleep(0.003)
"""

    def sqlite(self, mode):
        """Two writers, whose locks keep them apart."""
        import sqlite3
        program, db = self.write("writer.py", self.SQLITE), self.path("db")
        with contextlib.closing(sqlite3.connect(db)) as one:  # the mode is changed while nobody else is there
            one.execute("pragma journal_mode=" + mode)
        self.tree("sh", "-c", " & ".join(f"/usr/bin/python3 {program} {db} {mode} {i} n{i}" for i in (1, 2)) + " & wait")
        numbers = [0, 0]

        def check():
            for i in (0, 1):
                def number(i=i):
                    with open(self.path(f"n{i + 1}"), encoding="ascii") as f:
                        return int(f.readline() or 0)
                self.assertTrue(wait_until(lambda n=number, i=i: os.path.exists(self.path(f"n{i + 1}")) and n() > numbers[i]),
                                self.output())
                numbers[i] = number()

        check()
        self.rounds(check)
        self.dump()
        self.assertTrue(wait_until(lambda: not running(self.root)))
        db = sqlite3.connect(self.path("db"))
        self.assertEqual(db.execute("pragma integrity_check").fetchall(), [("ok",)])
        for i in (0, 1):
            had = [n for n, in db.execute("select n from t where who = ? order by n", (i + 1,))]
            self.assertEqual([n for n in range(1, numbers[i] + 1) if n % 7 != 3], [n for n in had if n <= numbers[i] and n % 7 != 3])

    def test_sqlite_wal(self):
        self.sqlite("wal")

    def test_sqlite_journal(self):
        self.sqlite("delete")


if __name__ == "__main__":
    unittest.main()
