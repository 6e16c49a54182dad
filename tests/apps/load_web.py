# SPDX-License-Identifier: LGPL-2.1-or-later
"""Web servers under load: no connection is lost, no answer is wrong."""
import hashlib
import os
import re
import signal
import socket
import threading
import time

from loaded import Load, answers, find, free_port, needs, wait_until


class Checker:
    """Connections that stay; the body of each answer is compared."""

    def __init__(self, port, pages, number=3, prefix=""):
        self.failures, self.counts, self.stop = [], [0] * number, threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(port, i, pages, prefix), daemon=True) for i in range(number)]
        for t in self.threads:
            t.start()

    def work(self, port, i, pages, prefix):
        try:
            with socket.create_connection(("127.0.0.1", port), 120) as sock:
                stream = sock.makefile("rb")
                while not self.stop.is_set():
                    for path, body in pages.items():
                        self.get(sock, stream, prefix + path, body)
                        self.counts[i] += 1
        except (OSError, ValueError, AssertionError, IndexError) as e:
            self.failures.append(repr(e))

    @staticmethod
    def get(sock, stream, path, body):
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status = stream.readline()
        assert status.startswith(b"HTTP/1.1 200"), status
        length, chunked = -1, False
        while (line := stream.readline().strip().lower()):
            name, value = line.split(b":", 1)
            length = int(value) if name == b"content-length" else length
            chunked |= name == b"transfer-encoding" and b"chunked" in value
        data = b""
        if chunked:
            while (n := int(stream.readline(), 16)):
                data += stream.read(n)
                stream.readline()
            stream.readline()
        else:
            data = stream.read(length)
        assert data == body, f"{path}: {len(data)} bytes, {data[:100]}"

    def must_go_on(self):
        before = list(self.counts)
        assert wait_until(lambda: self.failures or all(a > b for a, b in zip(self.counts, before))), "it stands still"
        assert not self.failures, self.failures

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(120)
        assert not self.failures, self.failures


class Web(Load):
    options = ("--tcp-established", "--skip-in-flight", "--file-locks")

    def pages(self):
        os.mkdir(self.path("www"))
        pages = {}
        for i, size in enumerate((10, 5000, 300000)):
            pages[f"/{i}.txt"] = b"".join(hashlib.sha512(b"%d %d" % (i, n)).hexdigest().encode() for n in range(size // 128 + 1))
            with open(self.path(f"www/{i}.txt"), "wb") as f:
                f.write(pages[f"/{i}.txt"])
        return pages

    def load(self, port, pages, path="/1.txt", connections=16):
        """wrk, which counts errors, and a client that reads. wrk counts the connections too that a dump has left out."""
        checker = Checker(port, pages)
        wrk = self.client("wrk", "-t", "2", "-c", str(connections), "-d", "3600s", "--timeout", "300s", f"http://127.0.0.1:{port}{path}")
        checker.must_go_on()
        wrk.connected(port, connections + len(checker.counts))
        self.rounds(checker.must_go_on)
        time.sleep(0.5)
        checker.end()
        output = wrk.stop(signal.SIGINT)  # it tells what it has counted
        self.assertNotIn("Socket errors", output)
        self.assertNotIn("Non-2xx", output)
        self.assertGreater(int(re.search(r"(\d+) requests in", output)[1]), 2 * connections, output)

    def nginx(self, servers, workers=2):
        return f"""
daemon off; worker_processes {workers}; pid {self.dir}/nginx.pid; error_log {self.dir}/error.log; user www-data;
events {{ worker_connections 256; }}
http {{ access_log {self.dir}/access.log; client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
 uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s; keepalive_requests 100000000; sendfile on; {servers} }}
"""

    @needs("nginx", "wrk")
    def test_nginx(self):
        pages, port = self.pages(), free_port()
        conf = self.write("nginx.conf", self.nginx(f"server {{ listen 127.0.0.1:{port}; root {self.dir}/www; }}"))
        self.serve(port, "nginx", "-c", conf, "-e", self.path("error.log"))
        self.load(port, pages)

    @needs("nginx")
    def test_nginx_with_short_connections(self):
        """A new connection for each request. Those that were not accepted at the moment of the dump are reset, and while
        there is no server new ones are refused; no other fails."""
        pages, port = self.pages(), free_port()
        conf = self.write("nginx.conf", self.nginx(f"server {{ listen 127.0.0.1:{port}; root {self.dir}/www; }}"))
        self.serve(port, "nginx", "-c", conf, "-e", self.path("error.log"))
        stop, failures, done, broken = threading.Event(), [], [0] * 6, [0] * 6

        def work(i):
            while not stop.is_set():
                sock = socket.socket()
                sock.settimeout(120)
                try:
                    try:
                        sock.connect(("127.0.0.1", port))
                    except ConnectionRefusedError:
                        time.sleep(0.01)
                        continue
                    Checker.get(sock, sock.makefile("rb"), "/1.txt", pages["/1.txt"])
                    done[i] += 1
                except ConnectionResetError:
                    broken[i] += 1
                except (OSError, ValueError, AssertionError, IndexError) as e:
                    failures.append(repr(e))
                finally:
                    sock.close()

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(done))]
        for t in threads:
            t.start()

        def check():
            before = list(done)
            self.assertTrue(wait_until(lambda: failures or all(a > b for a, b in zip(done, before))))
            self.assertEqual(failures, [])

        self.rounds(check)
        stop.set()
        for t in threads:
            t.join(60)
        self.assertEqual(failures, [])
        self.assertLessEqual(max(broken), len(self.times))

    def apache(self, mpm, mutex="", more=""):
        pages, port = self.pages(), free_port()
        modules = "/usr/lib/apache2/modules"
        loads = "".join(f"LoadModule {m}_module {modules}/mod_{m}.so\n" for m in (f"mpm_{mpm}", "authz_core", "mime", "dir"))
        conf = self.write("apache.conf", f"""
ServerName localhost
{loads}ServerRoot {self.dir}
PidFile {self.dir}/pid
DefaultRuntimeDir {self.dir}
ErrorLog {self.dir}/error.log
Listen 127.0.0.1:{port}
User www-data
Group www-data
{mutex}
TypesConfig /dev/null
DocumentRoot {self.dir}/www
MaxKeepAliveRequests 0
KeepAliveTimeout 600
{more}
<Directory {self.dir}/www>
Require all granted
</Directory>
""")
        self.serve(port, "apache2", "-f", conf, "-DFOREGROUND")
        self.load(port, pages)

    @needs("apache2", "wrk")
    def test_apache_event(self):
        self.apache("event", more="ThreadsPerChild 32\nServerLimit 2")

    @needs("apache2", "wrk")
    def test_apache_prefork(self):
        self.apache("prefork", more="StartServers 24\nMinSpareServers 2\nMaxSpareServers 30")

    @needs("apache2", "wrk")
    def test_apache_worker(self):
        self.apache("worker", mutex=f"Mutex fcntl:{self.dir} default", more="ThreadsPerChild 32\nServerLimit 2")

    @needs("lighttpd", "wrk")
    def test_lighttpd(self):
        pages, port = self.pages(), free_port()
        conf = self.write("lighttpd.conf", f"""
server.document-root = "{self.dir}/www"
server.port = {port}
server.bind = "127.0.0.1"
server.max-keep-alive-requests = 10000000
server.max-keep-alive-idle = 600
server.stat-cache-engine = "simple"
""")
        self.serve(port, "lighttpd", "-D", "-f", conf)
        self.load(port, pages)

    @needs("haproxy", "nginx", "wrk")
    def test_haproxy(self):
        """The proxy is dumped, with its connections on both sides; the server behind it is not."""
        pages, behind, port = self.pages(), free_port(), free_port()
        conf = self.write("nginx.conf", self.nginx(f"server {{ listen 127.0.0.1:{behind}; root {self.dir}/www; }}"))
        server = self.client("nginx", "-c", conf, "-e", self.path("error.log"))
        self.assertTrue(wait_until(lambda: answers(behind)), server.output())
        conf = self.write("haproxy.conf", f"""
global
 nbthread 2
defaults
 mode http
 timeout connect 60s
 timeout client 60s
 timeout server 60s
 timeout http-keep-alive 60s
frontend in
 bind 127.0.0.1:{port}
 default_backend out
backend out
 server one 127.0.0.1:{behind}
""")
        self.serve(port, "haproxy", "-db", "-f", conf)
        self.load(port, pages)

    @needs("php-fpm8.2", "nginx", "wrk")
    def test_php_fpm(self):
        """The master, its workers and the web server before them: one tree, connected by a unix socket. A connection to it that carries a
        request and was not accepted yet is worth another try (left out, it would be a "502" for a client), so there are as many workers
        as clients."""
        self.options = ("--tcp-established", "--file-locks")
        self.pages()
        port = free_port()
        self.write("www/sum.php", "<?php $a = []; for ($i = 0; $i < 2000; $i++) $a[] = md5($i); echo array_sum(array_map('hexdec', $a)) > 0 ? "
                   "md5(implode($a)) : 'wrong';")
        fpm = self.write("fpm.conf", f"""
[global]
error_log = {self.dir}/fpm.log
daemonize = no
pid = {self.dir}/fpm.pid
[www]
user = www-data
group = www-data
listen = {self.dir}/fpm.sock
listen.mode = 0666
pm = dynamic
pm.max_children = 16
pm.start_servers = 12
pm.min_spare_servers = 2
pm.max_spare_servers = 12
pm.max_requests = 500
""")
        conf = self.write("nginx.conf", self.nginx(f"""server {{ listen 127.0.0.1:{port}; root {self.dir}/www; location ~ \\.php$ {{
  fastcgi_pass unix:{self.dir}/fpm.sock; fastcgi_param SCRIPT_FILENAME {self.dir}/www$fastcgi_script_name;
  fastcgi_param REQUEST_METHOD $request_method; }} }}"""))
        self.serve(port, "sh", "-c", f"{find('php-fpm8.2')} -n -F -y {fpm} & nginx -c {conf} -e {self.dir}/error.log & wait")
        self.assertTrue(wait_until(lambda: os.path.exists(self.path("fpm.sock"))), self.output())
        right = hashlib.md5("".join(hashlib.md5(str(i).encode()).hexdigest() for i in range(2000)).encode()).hexdigest()
        self.load(port, {"/sum.php": right.encode()}, "/sum.php", 6)

    @needs("dnsmasq")
    def test_dnsmasq(self):
        """Names are asked for over UDP and over connections that stay."""
        port = free_port()
        hosts = self.write("hosts", "".join(f"10.{i // 250}.{i % 250}.7 host{i}.test\n" for i in range(1000)))
        self.serve(port, "dnsmasq", "-k", "-C", "/dev/null", "-p", str(port), "-a", "127.0.0.1", "-z", "-R", "-h", "-H", hosts,
                   "-u", "root", "-x", self.path("pid"), "--dns-forward-max=500")

        def query(i):
            name = b"".join(bytes([len(x)]) + x for x in (b"host%d" % i, b"test")) + b"\0"
            return i.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"

        def check():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(120)
                for i in range(200):
                    s.sendto(query(i), ("127.0.0.1", port))
                    reply = s.recv(512)
                    self.assertEqual(reply[:2], i.to_bytes(2, "big"))
                    self.assertEqual(reply[-4:], bytes([10, i // 250, i % 250, 7]))
        check()
        self.rounds(check)

    @needs("varnishd", "nginx", "wrk")
    def test_varnish(self):
        pages, behind, port = self.pages(), free_port(), free_port()
        conf = self.write("nginx.conf", self.nginx(f"server {{ listen 127.0.0.1:{behind}; root {self.dir}/www; }}"))
        server = self.client("nginx", "-c", conf, "-e", self.path("error.log"))
        self.assertTrue(wait_until(lambda: answers(behind)), server.output())
        self.serve(port, "varnishd", "-F", "-j", "none", "-n", self.path("varnish"), "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind}",
                   "-s", "malloc,32m", "-T", "none", "-p", "timeout_idle=60")
        time.sleep(1)
        self.load(port, pages)
