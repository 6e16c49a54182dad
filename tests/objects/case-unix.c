/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "object-case.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool pair(int type, int a, int b) {
  int ends[2];
  if (socketpair(AF_UNIX, type, 0, ends) < 0)
    return false;
  int high[2] = {fcntl(ends[0], F_DUPFD, 300), fcntl(ends[1], F_DUPFD, 300)};
  (void)close(ends[0]);
  (void)close(ends[1]);
  return case_place(high[0], a) && case_place(high[1], b);
}

static socklen_t address(struct sockaddr_un *a, const char *path) {
  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  size_t n = strlen(path);
  memcpy(a->sun_path, path, n);
  if (a->sun_path[0] != '@')
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
  a->sun_path[0] = '\0';
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

static bool bind_to(int fd, const char *path) {
  struct sockaddr_un a;
  socklen_t size = address(&a, path);
  return bind(fd, (struct sockaddr *)&a, size) == 0;
}

static bool connect_to(int fd, const char *path) {
  struct sockaddr_un a;
  socklen_t size = address(&a, path);
  return connect(fd, (struct sockaddr *)&a, size) == 0;
}

/* Whether getsockname() or getpeername() says @path ("" for unnamed). */
static bool named(int fd, bool peer, const char *path) {
  struct sockaddr_un a = {0}, want;
  socklen_t size = sizeof a, wanted = path[0] ? address(&want, path) : offsetof(struct sockaddr_un, sun_path);
  if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&a, &size) < 0 || size != wanted)
    return false;
  return !path[0] || memcmp(a.sun_path, want.sun_path, size - offsetof(struct sockaddr_un, sun_path)) == 0;
}

static bool holds(int fd, const char *text) {
  char buffer[64];
  ssize_t n = recv(fd, buffer, sizeof buffer, MSG_PEEK | MSG_DONTWAIT);
  return text ? n == (ssize_t)strlen(text) && memcmp(buffer, text, strlen(text)) == 0 : n < 0 && errno == EAGAIN;
}

static int option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  (void)getsockopt(fd, SOL_SOCKET, name, &value, &size);
  return value;
}

/* --- pairs --- */

static const char *stream_setup(const char *dir) {
  REQUIRE(pair(SOCK_STREAM, 10, 11) && send(10, "in the ", 7, 0) == 7 && send(10, "socket", 6, 0) == 6);
  REQUIRE(send(11, "and back", 8, 0) == 8 && fcntl(11, F_SETFL, O_NONBLOCK) == 0 && dup2(11, 12) == 12);
  int size = 50000, one = 1;
  struct timeval tv = {.tv_sec = 3, .tv_usec = 40000};
  REQUIRE(setsockopt(10, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
  REQUIRE(setsockopt(10, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
  REQUIRE(setsockopt(11, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
  return NULL;
}

static const char *stream_verify(const char *dir) {
  REQUIRE(holds(11, "in the socket") && holds(10, "and back") && case_same(11, 12));
  REQUIRE(fcntl(10, F_GETFL) == O_RDWR && fcntl(11, F_GETFL) == (O_RDWR | O_NONBLOCK));
  struct timeval tv = {0};
  socklen_t size = sizeof tv;
  REQUIRE(getsockopt(10, SOL_SOCKET, SO_RCVTIMEO, &tv, &size) == 0 && tv.tv_sec == 3 && tv.tv_usec == 40000);
  REQUIRE(option(10, SO_SNDBUF) == 100000 && option(10, 72) == 1 && option(11, 72) == 0);
  REQUIRE(option(11, SO_SNDBUF) == option(10, SO_RCVBUF) && option(11, SO_PASSCRED) == 1);
  REQUIRE(named(10, false, "") && named(10, true, "") && option(10, 42 /* SO_PEEK_OFF */) == -1);
  return NULL;
}

static const char *packets_setup(const char *dir) {
  REQUIRE(pair(SOCK_SEQPACKET, 15, 16) && pair(SOCK_DGRAM, 17, 18));
  REQUIRE(send(15, "one", 3, 0) == 3 && send(15, "three", 5, 0) == 5);
  REQUIRE(send(17, "eins", 4, 0) == 4 && send(17, "", 0, 0) == 0 && send(17, "drei", 4, 0) == 4);
  REQUIRE(send(18, "zurueck", 7, 0) == 7);
  return NULL;
}

static const char *packets_verify(const char *dir) {
  char b[32];
  REQUIRE(recv(16, b, 32, MSG_DONTWAIT) == 3 && recv(16, b, 32, MSG_DONTWAIT) == 5 && memcmp(b, "three", 5) == 0);
  REQUIRE(holds(16, NULL) && send(15, "one", 3, 0) == 3 && send(15, "three", 5, 0) == 5);
  REQUIRE(recv(18, b, 32, MSG_DONTWAIT) == 4 && memcmp(b, "eins", 4) == 0 && recv(18, b, 32, MSG_DONTWAIT) == 0);
  REQUIRE(recv(18, b, 32, MSG_DONTWAIT) == 4 && memcmp(b, "drei", 4) == 0 && holds(18, NULL) && holds(17, "zurueck"));
  REQUIRE(send(17, "eins", 4, 0) == 4 && send(17, "", 0, 0) == 0 && send(17, "drei", 4, 0) == 4);
  return NULL;
}

static const char *closed_setup(const char *dir) {
  REQUIRE(pair(SOCK_STREAM, 20, 21) && send(21, "last words", 10, 0) == 10 && close(21) == 0);
  REQUIRE(pair(SOCK_STREAM, 22, 23) && send(22, "end", 3, 0) == 3 && shutdown(22, SHUT_WR) == 0);
  REQUIRE(pair(SOCK_SEQPACKET, 24, 25) && close(25) == 0 && pair(SOCK_DGRAM, 26, 27) && close(27) == 0);
  return NULL;
}

static const char *closed_verify(const char *dir) {
  char b[32];
  REQUIRE(holds(20, "last words") && send(20, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
  struct pollfd p = {.fd = 20, .events = POLLIN};
  REQUIRE(poll(&p, 1, 0) == 1 && p.revents & POLLHUP);
  REQUIRE(holds(23, "end") && send(22, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
  REQUIRE(send(23, "y", 1, 0) == 1 && recv(22, b, 32, 0) == 1);
  REQUIRE(recv(24, b, 32, MSG_DONTWAIT) == 0 && fcntl(26, F_GETFL) == O_RDWR);
  return NULL;
}

/* --- names --- */

/* Who listens is whom clients see; in another process, too, it is the one that did. */
static bool note_creator(const char *dir) {
  FILE *f = fopen(case_path(dir, "creator"), "w");
  return f && fprintf(f, "%d", getpid()) > 0 && fclose(f) == 0;
}

static int creator(const char *dir) {
  int pid = -1;
  FILE *f = fopen(case_path(dir, "creator"), "r");
  if (!f || fscanf(f, "%d", &pid) != 1 || fclose(f) != 0)
    return -1;
  return pid;
}

static const char *listen_setup(const char *dir) {
  REQUIRE(note_creator(dir));
  const char *path = case_path(dir, "server");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), 30) && bind_to(30, path) && listen(30, 7) == 0);
  REQUIRE(chmod(path, 0620) == 0 && chown(path, 12, 34) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_SEQPACKET, 0), 31) && bind_to(31, "@object case") && listen(31, 1) == 0);
  REQUIRE(chdir(dir) == 0 && case_place(socket(AF_UNIX, SOCK_STREAM, 0), 32) && bind_to(32, "relative"));
  REQUIRE(listen(32, 3) == 0 && chdir("/") == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 33)); /* nothing yet */
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 34) && bind_to(34, case_path(dir, "bound")));
  const char *gone = case_path(dir, "gone");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 35) && bind_to(35, gone) && listen(35, 2) == 0);
  REQUIRE(unlink(gone) == 0);
  return NULL;
}

static bool serves(const char *dir, int listener, int type, const char *path) {
  if (!case_final)
    return true;
  char c;
  int client = socket(AF_UNIX, type, 0);
  bool ok = client >= 0 && connect_to(client, path);
  int server = ok ? accept(listener, NULL, NULL) : -1;
  ok = ok && server >= 0 && send(client, "x", 1, 0) == 1 && recv(server, &c, 1, 0) == 1;
  struct ucred peer = {0};
  socklen_t size = sizeof peer;
  ok = ok && getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == creator(dir);
  (void)close(client);
  (void)close(server);
  return ok;
}

static const char *listen_verify(const char *dir) {
  struct stat st;
  const char *path = case_path(dir, "server");
  REQUIRE(named(30, false, path) && stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0620);
  REQUIRE(st.st_uid == 12 && st.st_gid == 34 && serves(dir, 30, SOCK_STREAM, path));
  REQUIRE(fcntl(30, F_GETFL) & O_NONBLOCK && option(30, SO_ACCEPTCONN) == 1 && accept(30, NULL, NULL) == -1);
  REQUIRE(serves(dir, 31, SOCK_SEQPACKET, "@object case") && named(31, false, "@object case"));
  REQUIRE(named(32, false, "relative") && serves(dir, 32, SOCK_STREAM, case_path(dir, "relative")));
  REQUIRE(option(33, SO_ACCEPTCONN) == 0 && named(33, false, ""));
  REQUIRE(named(34, false, case_path(dir, "bound")) && stat(case_path(dir, "bound"), &st) == 0);
  REQUIRE(named(35, false, case_path(dir, "gone")) && option(35, SO_ACCEPTCONN) == 1);
  REQUIRE(stat(case_path(dir, "gone"), &st) == -1);
  return NULL;
}

static const char *accepted_setup(const char *dir) {
  REQUIRE(note_creator(dir));
  const char *path = case_path(dir, "server"), *client = case_path(dir, "client");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 40) && bind_to(40, path) && listen(40, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 41) && connect_to(41, path));
  REQUIRE(case_place(accept(40, NULL, NULL), 42) && send(41, "hello", 5, 0) == 5 && send(42, "welcome", 7, 0) == 7);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 43) && bind_to(43, client) && connect_to(43, path));
  REQUIRE(case_place(accept(40, NULL, NULL), 44));
  /* its client has left; and one whose listener has left */
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 45) && connect_to(45, path));
  REQUIRE(case_place(accept(40, NULL, NULL), 46) && send(45, "bye", 3, 0) == 3 && close(45) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 47) && bind_to(47, "@object case gone") && listen(47, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 48) && connect_to(48, "@object case gone"));
  REQUIRE(case_place(accept(47, NULL, NULL), 49) && close(47) == 0);
  return NULL;
}

static const char *accepted_verify(const char *dir) {
  const char *path = case_path(dir, "server");
  REQUIRE(holds(42, "hello") && holds(41, "welcome") && named(42, false, path) && named(41, true, path));
  REQUIRE(named(41, false, "") && named(42, true, ""));
  REQUIRE(named(43, false, case_path(dir, "client")) && named(44, true, case_path(dir, "client")));
  REQUIRE(named(44, false, path) && holds(46, "bye") && named(46, false, path));
  REQUIRE(named(49, false, "@object case gone") && named(48, true, "@object case gone"));
  REQUIRE(serves(dir, 40, SOCK_STREAM, path));
  return NULL;
}

/* A name in the abstract namespace is the listener's and its connections' at once. */
static const char *abstract_setup(const char *dir) {
  static const char name[] = "@object case at once";
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 54) && bind_to(54, name) && listen(54, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 55) && connect_to(55, name));
  REQUIRE(case_place(accept(54, NULL, NULL), 56) && send(55, "hello", 5, 0) == 5);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 57) && connect_to(57, name));
  REQUIRE(case_place(accept(54, NULL, NULL), 59) && close(57) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 58) && connect_to(58, name)); /* not accepted */
  return NULL;
}

static const char *abstract_verify(const char *dir) {
  static const char name[] = "@object case at once";
  char c;
  REQUIRE(named(54, false, name) && named(55, true, name) && named(56, false, name) && holds(56, "hello"));
  REQUIRE(named(59, false, name) && recv(59, &c, 1, MSG_DONTWAIT) == 0 && named(58, true, name));
  return NULL;
}

static const char *datagram_setup(const char *dir) {
  const char *path = case_path(dir, "log");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_DGRAM, 0), 50) && bind_to(50, path));
  REQUIRE(case_place(socket(AF_UNIX, SOCK_DGRAM, 0), 51) && connect_to(51, path));
  REQUIRE(case_place(socket(AF_UNIX, SOCK_DGRAM, 0), 52) && connect_to(52, path) && bind_to(52, "@object case client"));
  REQUIRE(send(51, "a line", 6, 0) == 6 && send(51, "another", 7, 0) == 7);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_DGRAM, 0), 53));
  return NULL;
}

static const char *datagram_verify(const char *dir) {
  char b[32];
  const char *path = case_path(dir, "log");
  REQUIRE(named(50, false, path) && named(51, true, path) && named(52, false, "@object case client"));
  REQUIRE(recv(50, b, 32, MSG_DONTWAIT) == 6 && memcmp(b, "a line", 6) == 0 && recv(50, b, 32, MSG_DONTWAIT) == 7);
  REQUIRE(holds(50, NULL) && send(52, "x", 1, 0) == 1);
  struct sockaddr_un from;
  socklen_t size = sizeof from;
  REQUIRE(recvfrom(50, b, 32, 0, (struct sockaddr *)&from, &size) == 1 && memcmp(from.sun_path, "\0object", 7) == 0);
  REQUIRE(send(51, "a line", 6, 0) == 6 && send(51, "another", 7, 0) == 7);
  return NULL;
}

/* Clients that nobody has accepted yet. */
static const char *waiting_setup(const char *dir) {
  const char *path = case_path(dir, "server");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 62) && bind_to(62, path) && listen(62, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), 63) && connect_to(63, path));
  REQUIRE(case_place(socket(AF_UNIX, SOCK_SEQPACKET, 0), 67) && bind_to(67, "@object case waits") && listen(67, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_SEQPACKET, 0), 68) && bind_to(68, case_path(dir, "client")));
  REQUIRE(connect_to(68, "@object case waits"));
  return NULL;
}

/* Accepts, talks, and lets the next one wait. */
static bool still_waits(int listener, int client, const char *path, const char *own) {
  struct pollfd p = {.fd = listener, .events = POLLIN};
  if (!named(client, true, path) || poll(&p, 1, 0) != 1)
    return false;
  if (!case_final)
    return true;
  char c;
  int server = accept(listener, NULL, NULL);
  bool ok = server >= 0 && named(server, true, own) && named(server, false, path) && send(server, "x", 1, 0) == 1 &&
            recv(client, &c, 1, 0) == 1 && poll(&p, 1, 0) == 0;
  (void)close(server);
  if (!*own) {
    int again = socket(AF_UNIX, SOCK_STREAM, 0);
    ok = ok && connect_to(again, path) && case_place(again, client);
  }
  return ok;
}

static const char *waiting_verify(const char *dir) {
  static bool done;
  REQUIRE(still_waits(62, 63, case_path(dir, "server"), ""));
  REQUIRE(done || still_waits(67, 68, "@object case waits", case_path(dir, "client")));
  done = case_final;
  return NULL;
}

/* --- what leads outside --- */

static int outside_server(const char *path, int type) {
  int fd = socket(AF_UNIX, type, 0);
  if (fd < 0 || !bind_to(fd, path) || (type != SOCK_DGRAM && listen(fd, 5) < 0))
    return -1;
  return fd;
}

/* A log daemon that is not dumped; datagrams find it by its name. */
static const char *syslog_setup(const char *dir) {
  const char *path = case_path(dir, "daemon");
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  bool forked = false;
  pid_t tested = getpid();
  if (case_fork_outside(&forked)) {
    int fd = outside_server(path, SOCK_DGRAM);
    if (fd < 0 || write(ends[1], "x", 1) != 1)
      _exit(1);
    (void)close(ends[1]);
    case_outlive(tested, 20);
  }
  char c;
  REQUIRE(forked && read(ends[0], &c, 1) == 1 && close(ends[0]) == 0 && close(ends[1]) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_DGRAM, 0), 60) && connect_to(60, path));
  return NULL;
}

static const char *syslog_between(const char *dir) {
  const char *path = case_path(dir, "daemon");
  REQUIRE(unlink(path) == 0 && outside_server(path, SOCK_DGRAM) >= 0);
  return NULL;
}

static const char *syslog_verify(const char *dir) {
  REQUIRE(named(60, true, case_path(dir, "daemon")) && send(60, "x", 1, 0) == 1);
  return NULL;
}

static const char *bus_setup(const char *dir) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  bool forked = false;
  pid_t tested = getpid();
  if (case_fork_outside(&forked)) {
    (void)close(ends[0]);
    case_outlive(tested, 0);
  }
  REQUIRE(forked && close(ends[1]) == 0 && case_place(ends[0], 61));
  return NULL;
}

/* Nobody knows what it has sent. */
static const char *sent_setup(const char *dir) {
  const char *path = case_path(dir, "server");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 69) && bind_to(69, path) && listen(69, 5) == 0);
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 70) && connect_to(70, path) && send(70, "x", 1, 0) == 1);
  return NULL;
}

static const char *left_setup(const char *dir) {
  const char *path = case_path(dir, "server");
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 71) && bind_to(71, path) && listen(71, 5) == 0);
  int client = socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(connect_to(client, path) && close(client) == 0);
  return NULL;
}

static const char *rights_setup(const char *dir) {
  char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
  char byte = 1;
  struct iovec iov = {.iov_base = &byte, .iov_len = 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
  cmsg->cmsg_level = SOL_SOCKET;
  cmsg->cmsg_type = SCM_RIGHTS;
  cmsg->cmsg_len = CMSG_LEN(sizeof(int));
  REQUIRE(pair(SOCK_STREAM, 64, 65) && sendmsg(64, &msg, 0) == 1);
  return NULL;
}

static const char *rights_verify(const char *dir) {
  char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))), byte = 0;
  struct iovec iov = {.iov_base = &byte, .iov_len = 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  int fd = -1, size = sizeof fd;
  REQUIRE(recvmsg(65, &msg, MSG_PEEK | MSG_DONTWAIT) == 1 && byte == 1 && msg.msg_controllen >= CMSG_LEN(sizeof fd));
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
  REQUIRE(fd > 2 && case_link_is(fd, "/dev/null") && close(fd) == 0 && size == 4);
  return NULL;
}

/* Somebody else listens there by the time of the restore. */
static const char *taken_setup(const char *dir) {
  REQUIRE(case_place(socket(AF_UNIX, SOCK_STREAM, 0), 66) && bind_to(66, case_path(dir, "taken")));
  REQUIRE(listen(66, 5) == 0);
  return NULL;
}

static const char *taken_between(const char *dir) {
  REQUIRE(unlink(case_path(dir, "taken")) == 0 && outside_server(case_path(dir, "taken"), SOCK_STREAM) >= 0);
  return NULL;
}

static const char *covered_between(const char *dir) {
  const char *path = case_path(dir, "taken");
  REQUIRE(unlink(path) == 0);
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
  REQUIRE(fd >= 0 && close(fd) == 0);
  return NULL;
}

const ObjectCase object_cases[] = {
    {"stream", stream_setup, stream_verify},
    {"packets", packets_setup, packets_verify},
    {"closed", closed_setup, closed_verify},
    {"listen", listen_setup, listen_verify},
    {"accepted", accepted_setup, accepted_verify},
    {"abstract", abstract_setup, abstract_verify},
    {"datagram", datagram_setup, datagram_verify},
    {"syslog", syslog_setup, syslog_verify, .between = syslog_between},
    {"bus", bus_setup, .blocked = "its peer is pid"},
    {"waiting", waiting_setup, waiting_verify},
    {"sent", sent_setup, .blocked = "has sent data on a connection"},
    {"left", left_setup, .blocked = "wait to be accepted"},
    {"rights", rights_setup, rights_verify},
    {"taken", taken_setup, .between = taken_between, .unrestorable = "is in use by another process"},
    {"covered", taken_setup, .between = covered_between, .unrestorable = "is another file now"},
    {0},
};
