/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unix sockets: descriptors on their way in queues, credentials of packets and of peers, files that were renamed, replaced or
 * removed, connections that nobody has accepted. */
#include "subject.h"
#include <grp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static void pair(int type, int ends[2]) {
  check_call(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0);
}

static void send_fds(int fd, const char *text, const int *fds, size_t n) {
  char control[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8))) = {0};
  struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof *fds)};
  struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
  cmsg->cmsg_level = SOL_SOCKET;
  cmsg->cmsg_type = SCM_RIGHTS;
  cmsg->cmsg_len = CMSG_LEN(n * sizeof *fds);
  memcpy(CMSG_DATA(cmsg), fds, n * sizeof *fds);
  check_call(sendmsg(fd, &msg, 0) == (ssize_t)strlen(text));
}

typedef struct Got {
  char text[64];
  int fds[8];
  size_t n;
  struct ucred cred;
  bool has_cred;
  struct sockaddr_un from;
  socklen_t from_size;
} Got;

/* What can be received with room for @size bytes. */
static Got receive(int fd, size_t size) {
  Got got = {0};
  char control[512] __attribute__((aligned(8)));
  struct iovec iov = {.iov_base = got.text, .iov_len = size};
  struct msghdr msg = {.msg_name = &got.from, .msg_namelen = sizeof got.from, .msg_iov = &iov, .msg_iovlen = 1,
      .msg_control = control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
  check(n >= 0, "nothing can be received: %s", strerror(errno));
  got.from_size = msg.msg_namelen;
  for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
    if (cmsg->cmsg_type == SCM_RIGHTS) {
      got.n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      memcpy(got.fds, CMSG_DATA(cmsg), got.n * sizeof(int));
    } else if (cmsg->cmsg_type == SCM_CREDENTIALS) {
      got.has_cred = true;
      memcpy(&got.cred, CMSG_DATA(cmsg), sizeof got.cred);
    }
  }
  return got;
}

#define expect(got, wanted, number)                                                                                    \
  check(strcmp((got).text, wanted) == 0 && (got).n == (number), "line %d: \"%s\" with %zu descriptors, not \"%s\" with %d",        \
      __LINE__, (got).text, (got).n, wanted, number)

static bool is_empty(int fd) {
  char c;
  return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* --- descriptors on their way --- */

static void flight_stream(int ends[2], const char *path) {
  pair(SOCK_STREAM, ends);
  int file = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600), pipes[2], twice = dup(file);
  check_call(file >= 0 && write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4 && pipe(pipes) == 0);
  check_call(write(pipes[1], "in the pipe", 11) == 11 && send(ends[0], "before", 6, 0) == 6);
  send_fds(ends[0], "with", (int[]){file, pipes[0], twice}, 3);
  check_call(send(ends[0], "after", 5, 0) == 5);
  send_fds(ends[0], "second", &pipes[1], 1);
  check_call(close(file) == 0 && close(twice) == 0 && close(pipes[0]) == 0 && close(pipes[1]) == 0);
}

static void flight_stream_check(const int ends[2]) {
  char text[32] = "";
  Got got = receive(ends[1], 6);
  expect(got, "before", 0);
  got = receive(ends[1], 2); /* descriptors come with the first byte they were sent with */
  expect(got, "wi", 3);
  check(lseek(got.fds[0], 0, SEEK_CUR) == 4 && read(got.fds[0], text, 3) == 3 && strcmp(text, "456") == 0, "the file: %s", text);
  check(lseek(got.fds[2], 0, SEEK_CUR) == 7, "two descriptors of one file are two files now");
  int reader = got.fds[1];
  got = receive(ends[1], 7);
  expect(got, "thafter", 0);
  got = receive(ends[1], 60);
  expect(got, "second", 1);
  check(write(got.fds[0], "!", 1) == 1 && read(reader, text, 32) == 12 && memcmp(text, "in the pipe!", 12) == 0, "the pipe");
  check(is_empty(ends[1]), "there is more");
}

/* A socket on its way, in whose queue another one is; that one over itself; and one whose other end is in no table at all. */
static void flight_nested(int type, int ends[2]) {
  int inner[2], deep[2];
  pair(type, ends);
  pair(type, inner);
  pair(type, deep);
  int file = memfd_create("on its way", MFD_CLOEXEC);
  check_call(file >= 0 && write(file, "deep down", 9) == 9);
  send_fds(deep[0], "file", &file, 1);
  send_fds(inner[0], "deep", deep, 2); /* both ends */
  send_fds(ends[0], "inner", &inner[1], 1);
  send_fds(ends[0], "itself", (int[]){ends[1], inner[0]}, 2);
  check_call(close(file) == 0 && close(deep[0]) == 0 && close(deep[1]) == 0 && close(inner[0]) == 0 && close(inner[1]) == 0);
}

static void flight_nested_check(const int ends[2]) {
  char text[16] = "";
  Got outer = receive(ends[1], 5), cycle = receive(ends[1], 6);
  expect(outer, "inner", 1);
  expect(cycle, "itself", 2);
  check_call(send(cycle.fds[1], "to and fro", 10, 0) == 10 && send(ends[0], "x", 1, 0) == 1);
  check(recv(cycle.fds[0], text, 1, MSG_DONTWAIT) == 1 && *text == 'x', "the socket in its own queue is another one now");
  Got deep = receive(outer.fds[0], 4), after = receive(outer.fds[0], 10);
  expect(deep, "deep", 2);
  expect(after, "to and fro", 0);
  Got file = receive(deep.fds[1], 4);
  expect(file, "file", 1);
  check(pread(file.fds[0], text, 16, 0) == 9 && memcmp(text, "deep down", 9) == 0, "the memfd at the bottom");
  check_call(send(deep.fds[1], "back", 4, 0) == 4 && recv(deep.fds[0], text, 16, MSG_DONTWAIT) == 4);
}

/* The sender has left; only one end of what was sent remains. */
static void flight_closed(int ends[2]) {
  int lonely[2];
  pair(SOCK_STREAM, ends);
  pair(SOCK_STREAM, lonely);
  check_call(send(lonely[0], "last", 4, 0) == 4 && close(lonely[0]) == 0);
  send_fds(ends[0], "lonely", &lonely[1], 1);
  check_call(shutdown(ends[0], SHUT_WR) == 0 && close(ends[0]) == 0 && close(lonely[1]) == 0);
  ends[0] = -1;
}

static void flight_closed_check(const int ends[2]) {
  char text[8];
  Got got = receive(ends[1], 20);
  expect(got, "lonely", 1);
  check(recv(got.fds[0], text, 8, 0) == 4 && recv(got.fds[0], text, 8, 0) == 0 && recv(ends[1], text, 8, 0) == 0, "no end");
}

static void run_flight(void) {
  char path[4096];
  subject_path(path, sizeof path, "file");
  int stream[2], nested[3][2], closed[2];
  flight_stream(stream, path);
  flight_nested(SOCK_STREAM, nested[0]);
  flight_nested(SOCK_DGRAM, nested[1]);
  flight_nested(SOCK_SEQPACKET, nested[2]);
  flight_closed(closed);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  flight_stream_check(stream);
  for (int i = 0; i < 3; i++)
    flight_nested_check(nested[i]);
  flight_closed_check(closed);
}

/* --- who it was --- */

typedef struct Who {
  pid_t pid;
  uid_t uid;
  gid_t gid;
} Who;

static Who nobody_else(void) {
  return (Who){getpid(), geteuid(), getegid()};
}

/* Runs @work as somebody else, who ends. */
static Who as_other(uid_t uid, gid_t gid, void (*work)(void *), void *data) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0) {
    const gid_t groups[] = {gid, 4711};
    check_call(setgroups(2, groups) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0);
    work(data);
    _exit(0);
  }
  int status = -1;
  check_call(waitpid(pid, &status, 0) == pid);
  check(status == 0, "the other process failed: 0x%x", status);
  return (Who){pid, uid, gid};
}

static void say_hello(void *data) {
  check_call(send(*(int *)data, "hello", 5, 0) == 5);
}

static void check_cred(int fd, const char *text, Who who) {
  Got got = receive(fd, 5);
  check(strcmp(got.text, text) == 0 && got.has_cred && got.cred.pid == who.pid && got.cred.uid == who.uid && got.cred.gid == who.gid,
      "\"%s\" from pid %d, user %u, not \"%s\" from pid %d, user %u", got.text, got.cred.pid, got.cred.uid, text, who.pid, who.uid);
}

static void check_peer(const char *what, int fd, Who who, bool groups) {
  struct ucred cred = {0};
  gid_t list[64] = {0};
  socklen_t size = sizeof cred, list_size = sizeof list;
  check_call(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0);
  check(cred.pid == who.pid && cred.uid == who.uid && cred.gid == who.gid, "%s: its peer is pid %d, user %u, group %u, not %d, %u, %u",
      what, cred.pid, cred.uid, cred.gid, who.pid, who.uid, who.gid);
  check_call(getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &list_size) == 0);
  check(!groups || (list_size == 8 && ((list[0] == who.gid && list[1] == 4711) || (list[1] == who.gid && list[0] == 4711))),
      "%s: groups of its peer: %u of them, %u, %u", what, list_size / 4, list[0], list[1]);
}

typedef struct Made {
  int ends[2];
  int fd;
  struct sockaddr_un address;
} Made;

static void make_pair_here(void *data) {
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ((Made *)data)->ends) == 0);
}

/* Hands both ends over. */
static void make_pair_there(void *data) {
  Made *m = data;
  int ends[2];
  make_pair_here(&(Made){0});
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  send_fds(m->fd, "two", ends, 2);
}

static void listen_there(void *data) {
  check_call(listen(((Made *)data)->fd, 5) == 0);
}

static void connect_there(void *data) {
  Made *m = data;
  check_call(connect(m->fd, (struct sockaddr *)&m->address, sizeof(sa_family_t) + 12) == 0);
}

static void run_creds(void) {
  int stream[2], packets[2], way[2], one = 1;
  pair(SOCK_STREAM, stream);
  pair(SOCK_DGRAM, packets);
  pair(SOCK_STREAM, way);
  check_call(setsockopt(stream[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
  check_call(setsockopt(packets[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
  Who me = nobody_else(), a = as_other(1234, 2345, say_hello, &stream[0]);
  check_call(send(stream[0], "HELLO", 5, 0) == 5);
  Who b = as_other(77, 78, say_hello, &packets[0]), c = as_other(88, 89, say_hello, &packets[0]);
  Made made = {.fd = way[0]}, server = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)}, client = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
  server.address.sun_family = client.address.sun_family = AF_UNIX;
  (void)snprintf(server.address.sun_path + 1, 12, "uc%09d", getpid());
  client.address = server.address;
  check_call(bind(server.fd, (struct sockaddr *)&server.address, sizeof(sa_family_t) + 12) == 0);
  Who maker = as_other(99, 100, make_pair_there, &made), listener = as_other(1000, 1001, listen_there, &server);
  Got got = receive(way[1], 3);
  expect(got, "two", 2);
  Who connector = as_other(1002, 1003, connect_there, &client);
  int accepted = accept(server.fd, NULL, NULL);
  check_call(accepted >= 0);
  subject_ready();
  for (bool last = false; !last;) {
    last = subject_checking();
    check_peer("pair", stream[0], me, false);
    check_peer("a pair of somebody's", got.fds[0], maker, true);
    check_peer("its other end", got.fds[1], maker, true);
    check_peer("listener", server.fd, listener, true);
    check_peer("client", client.fd, listener, true);
    check_peer("server", accepted, connector, true);
    subject_tick();
  }
  check_cred(stream[1], "hello", a);
  check_cred(stream[1], "HELLO", me);
  check_cred(packets[1], "hello", b);
  check_cred(packets[1], "hello", c);
}

/* --- names --- */

static socklen_t address(struct sockaddr_un *a, const char *path) {
  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  (void)snprintf(a->sun_path, sizeof a->sun_path, "%s", path);
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(a->sun_path) + 1);
  if (a->sun_path[0] == '@') {
    a->sun_path[0] = 0;
    size--;
  }
  return size;
}

static int bound(int type, const char *path) {
  struct sockaddr_un a;
  socklen_t size = address(&a, path);
  int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && bind(fd, (struct sockaddr *)&a, size) == 0);
  return fd;
}

static void connect_to(int fd, const char *path) {
  struct sockaddr_un a;
  socklen_t size = address(&a, path);
  check(connect(fd, (struct sockaddr *)&a, size) == 0, "connect to %s: %s", path, strerror(errno));
}

static void send_to(int fd, const char *text, const char *path) {
  struct sockaddr_un a;
  socklen_t size = address(&a, path);
  check_call(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, size) == (ssize_t)strlen(text));
}

static bool is_named(int fd, const char *path) {
  struct sockaddr_un a = {0}, wanted;
  socklen_t size = sizeof a, n = address(&wanted, path);
  return getsockname(fd, (struct sockaddr *)&a, &size) == 0 && size == n && memcmp(&a, &wanted, n) == 0;
}

static void check_from(int fd, const char *text, const char *from) {
  struct sockaddr_un wanted;
  socklen_t size = from ? address(&wanted, from) : 0;
  Got got = receive(fd, 60);
  check(strcmp(got.text, text) == 0 && got.from_size == size && (!size || memcmp(&got.from, &wanted, size) == 0),
      "\"%s\" from %s, not \"%s\" from %s", got.text, got.from.sun_path, text, from ? from : "nobody");
}

static ino_t inode(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 ? st.st_ino : 0;
}

typedef struct Names {
  char log[64], client[64], gone[64], moved[64], place[64], abstract[64], deaf[64], replaced[64], own[64], linked[64];
  int log_fd, client_fd, abstract_fd, plain_fd, gone_fd, moved_fd, place_fd, relative_fd, linked_fd, auto_fd, zero_fd, mutual_fd[2];
} Names;

/* Datagrams of several senders: one is here, one has left, one has no name, one an abstract one. */
static void names_senders(Names *n) {
  n->log_fd = bound(SOCK_DGRAM, n->log);
  n->client_fd = bound(SOCK_DGRAM, n->client);
  n->abstract_fd = bound(SOCK_DGRAM, n->abstract);
  n->plain_fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  connect_to(n->plain_fd, n->log);
  connect_to(n->abstract_fd, n->log);
  int left = bound(SOCK_DGRAM, n->deaf);
  send_to(n->client_fd, "of a client", n->log);
  send_to(left, "of one that left", n->log);
  send_to(n->plain_fd, "of a nameless one", n->log);
  send_to(n->abstract_fd, "of an abstract one", n->log);
  check_call(close(left) == 0 && unlink(n->deaf) == 0);
  /* Both are connected to each other, after a third one has sent something. */
  char name[80];
  (void)snprintf(name, sizeof name, "%s.m", n->log);
  n->mutual_fd[0] = bound(SOCK_DGRAM, name);
  send_to(n->client_fd, "first of another", name);
  (void)snprintf(name, sizeof name, "%s.n", n->log);
  n->mutual_fd[1] = bound(SOCK_DGRAM, name);
  connect_to(n->mutual_fd[0], name);
  (void)snprintf(name, sizeof name, "%s.m", n->log);
  connect_to(n->mutual_fd[1], name);
  check_call(send(n->mutual_fd[1], "then of the peer", 16, 0) == 16);
}

static void names_senders_check(const Names *n) {
  char name[80];
  check_from(n->log_fd, "of a client", n->client);
  check_from(n->log_fd, "of one that left", n->deaf);
  check_from(n->log_fd, "of a nameless one", NULL);
  check_from(n->log_fd, "of an abstract one", n->abstract);
  check(is_empty(n->log_fd), "there is more");
  check_call(send(n->plain_fd, "still connected", 15, 0) == 15 && send(n->abstract_fd, "too", 3, 0) == 3);
  check_from(n->log_fd, "still connected", NULL);
  check_from(n->log_fd, "too", n->abstract);
  check_from(n->mutual_fd[0], "first of another", n->client);
  (void)snprintf(name, sizeof name, "%s.n", n->log);
  check_from(n->mutual_fd[0], "then of the peer", name);
  check_call(send(n->mutual_fd[0], "back", 4, 0) == 4);
  (void)snprintf(name, sizeof name, "%s.m", n->log);
  check_from(n->mutual_fd[1], "back", name);
}

/* Removed, renamed, replaced; where nobody finds them, and in a directory that is not "/". */
static void names_files(Names *n, const char *directory) {
  n->gone_fd = bound(SOCK_DGRAM, n->gone);
  send_to(n->client_fd, "to one that is gone", n->gone);
  check_call(unlink(n->gone) == 0);
  n->moved_fd = bound(SOCK_DGRAM, n->place);
  check_call(rename(n->place, n->moved) == 0);
  n->place_fd = bound(SOCK_DGRAM, n->place); /* of the same name */
  send_to(n->client_fd, "to the moved one", n->moved);
  send_to(n->client_fd, "to the new one", n->place);
  n->linked_fd = bound(SOCK_DGRAM, n->own); /* as supervisord does it */
  check_call(link(n->own, n->linked) == 0 && unlink(n->own) == 0);
  send_to(n->client_fd, "to the linked one", n->linked);
  check_call(chdir(directory) == 0);
  n->relative_fd = bound(SOCK_DGRAM, "relative.sock");
  send_to(n->client_fd, "to a relative one", "relative.sock");
  check_call(chdir("/") == 0);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  n->auto_fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  check_call(bind(n->auto_fd, (struct sockaddr *)&a, sizeof(sa_family_t)) == 0);
  n->zero_fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  memcpy(a.sun_path, "\0a\0\0b\0", 6);
  (void)snprintf(a.sun_path + 6, 20, "%d", getpid());
  check_call(bind(n->zero_fd, (struct sockaddr *)&a, sizeof(sa_family_t) + 12) == 0);
}

static void names_files_hold(const Names *n, const struct sockaddr_un *autobound) {
  struct sockaddr_un a = {0};
  socklen_t size = sizeof a;
  check(is_named(n->gone_fd, n->gone) && !inode(n->gone), "the one that is gone");
  check(is_named(n->moved_fd, n->place) && inode(n->moved), "the moved one");
  check(is_named(n->place_fd, n->place) && inode(n->place) && inode(n->place) != inode(n->moved), "the new one");
  check(is_named(n->linked_fd, n->own) && inode(n->linked) && !inode(n->own), "the linked one");
  check(is_named(n->relative_fd, "relative.sock"), "the relative one");
  check(getsockname(n->auto_fd, (struct sockaddr *)&a, &size) == 0 && size == sizeof(sa_family_t) + 6 &&
            memcmp(&a, autobound, size) == 0, "the one the kernel named");
  size = sizeof a;
  check(getsockname(n->zero_fd, (struct sockaddr *)&a, &size) == 0 && size == sizeof(sa_family_t) + 12 &&
            memcmp(a.sun_path, "\0a\0\0b\0", 6) == 0, "the one with zeroes");
}

static void names_files_check(const Names *n) {
  check_from(n->gone_fd, "to one that is gone", n->client);
  check_from(n->moved_fd, "to the moved one", n->client);
  check_from(n->place_fd, "to the new one", n->client);
  check_from(n->linked_fd, "to the linked one", n->client);
  send_to(n->client_fd, "linked there", n->linked);
  check_from(n->linked_fd, "linked there", n->client);
  check_from(n->relative_fd, "to a relative one", n->client);
  send_to(n->client_fd, "new here", n->place);
  send_to(n->client_fd, "moved there", n->moved);
  check_from(n->place_fd, "new here", n->client);
  check_from(n->moved_fd, "moved there", n->client);
}

static void run_names(void) {
  char directory[] = "/tmp/unixes.XXXXXX";
  check_call(mkdtemp(directory));
  Names n = {0};
  (void)snprintf(n.log, sizeof n.log, "%s/log", directory);
  (void)snprintf(n.client, sizeof n.client, "%s/client", directory);
  (void)snprintf(n.gone, sizeof n.gone, "%s/gone", directory);
  (void)snprintf(n.moved, sizeof n.moved, "%s/moved", directory);
  (void)snprintf(n.place, sizeof n.place, "%s/place", directory);
  (void)snprintf(n.own, sizeof n.own, "%s/own", directory);
  (void)snprintf(n.linked, sizeof n.linked, "%s/linked", directory);
  (void)snprintf(n.deaf, sizeof n.deaf, "%s/left", directory);
  (void)snprintf(n.abstract, sizeof n.abstract, "@unixes %d", getpid());
  names_senders(&n);
  names_files(&n, directory);
  struct sockaddr_un autobound = {0};
  socklen_t size = sizeof autobound;
  check_call(getsockname(n.auto_fd, (struct sockaddr *)&autobound, &size) == 0);
  subject_ready();
  for (bool last = false; !last; subject_tick()) {
    last = subject_checking();
    names_files_hold(&n, &autobound);
  }
  names_senders_check(&n);
  names_files_check(&n);
  char command[128];
  (void)snprintf(command, sizeof command, "rm -r %s", directory);
  check(system(command) == 0, "%s", command);
}

/* --- not accepted yet --- */

#define CLIENTS 4

static void run_backlog(void) {
  char path[64], gone[64];
  (void)snprintf(path, sizeof path, "/tmp/unixes.%d", getpid());
  (void)snprintf(gone, sizeof gone, "/tmp/unixes.%d.gone", getpid());
  int servers[2] = {bound(SOCK_STREAM, path), bound(SOCK_SEQPACKET, gone)}, clients[2][CLIENTS];
  for (int s = 0; s < 2; s++) {
    check_call(listen(servers[s], CLIENTS - 1) == 0);
    for (int i = 0; i < CLIENTS; i++) {
      char name[80];
      (void)snprintf(name, sizeof name, "@unixes %d %d %d", getpid(), s, i);
      clients[s][i] = bound(s ? SOCK_SEQPACKET : SOCK_STREAM, name);
      connect_to(clients[s][i], s ? gone : path);
    }
    check_call(shutdown(clients[s][1], SHUT_WR) == 0);
  }
  check_call(unlink(gone) == 0);
  /* One more has no room, and waits in connect(2). */
  pid_t child = fork();
  if (child == 0) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char c = 0;
    connect_to(fd, path);
    check_call(recv(fd, &c, 1, 0) == 1);
    _exit(c);
  }
  check_call(child > 0 && usleep(100000) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  for (int s = 0; s < 2; s++)
    for (int i = 0; i < CLIENTS; i++) {
      struct sockaddr_un from = {0}, wanted;
      char name[64], c = 0;
      (void)snprintf(name, sizeof name, "@unixes %d %d %d", getpid(), s, i);
      socklen_t size = sizeof from, n = address(&wanted, name);
      int fd = accept(servers[s], (struct sockaddr *)&from, &size);
      check(fd >= 0 && size == n && memcmp(&from, &wanted, n) == 0, "server %d: number %d is another one", s, i);
      check_call(send(fd, "x", 1, 0) == 1 && recv(clients[s][i], &c, 1, MSG_DONTWAIT) == 1);
      struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
      check(poll(&p, 1, 0) == (i == 1), "server %d, number %d: 0x%x", s, i, p.revents);
    }
  int status = 0, last = accept(servers[0], NULL, NULL);
  check_call(last >= 0 && send(last, "\7", 1, 0) == 1 && waitpid(child, &status, 0) == child);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 7, "the one that had no room: 0x%x", status);
  check_call(unlink(path) == 0);
}

/* What cannot be read, and left out on demand: of connections that nobody has accepted. */
static void run_skipped(void) {
  char path[64], c = 0;
  (void)snprintf(path, sizeof path, "/tmp/unixes.%d.skipped", getpid());
  int server = bound(SOCK_STREAM, path), client = socket(AF_UNIX, SOCK_STREAM, 0), left = socket(AF_UNIX, SOCK_STREAM, 0);
  int kept = socket(AF_UNIX, SOCK_STREAM, 0);
  check_call(listen(server, 5) == 0);
  connect_to(left, path);
  connect_to(client, path);
  connect_to(kept, path);
  check_call(send(client, "unseen", 6, 0) == 6 && close(left) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(recv(client, &c, 1, MSG_DONTWAIT) == 0, "the connection that is left out has no end");
  int fd = accept(server, NULL, NULL);
  check_call(fd >= 0 && send(kept, "x", 1, 0) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) == 1);
  struct pollfd p = {.fd = server, .events = POLLIN};
  check(poll(&p, 1, 0) == 0, "another connection waits");
  check_call(unlink(path) == 0);
}

/* --- empty packets; connections that were reset; a path that fills sun_path to its last byte --- */

static const char *const packets[] = {"", "abc", "", "", "d", ""};
enum { N_PACKETS = sizeof packets / sizeof *packets };

static void send_packets(int ends[2], int type, bool close_it) {
  pair(type, ends);
  for (int i = 0; i < N_PACKETS; i++)
    check_call(send(ends[0], packets[i], strlen(packets[i]), 0) == (ssize_t)strlen(packets[i]));
  if (close_it)
    check_call(close(ends[0]) == 0);
}

static void expect_packets(const char *what, const int ends[2], int after) {
  char text[16];
  for (int i = 0; i < N_PACKETS; i++) {
    ssize_t n = recv(ends[1], text, sizeof text, MSG_DONTWAIT);
    check(n == (ssize_t)strlen(packets[i]), "%s: packet %d has %zd bytes (%s)", what, i, n, strerror(errno));
  }
  check(recv(ends[1], text, sizeof text, MSG_DONTWAIT) == after, "%s: something after the last", what);
}

static void run_packets(void) {
  int open_ends[2], closed[2], datagrams[2], only_empty[2], reset[2], told[2], fds[2];
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  char text[8];
  send_packets(open_ends, SOCK_SEQPACKET, false);
  send_packets(closed, SOCK_SEQPACKET, true);
  send_packets(datagrams, SOCK_DGRAM, false);
  pair(SOCK_SEQPACKET, only_empty);
  check_call(send(only_empty[0], "", 0, 0) == 0);
  pair(SOCK_STREAM, reset); /* the other end is closed with data unread */
  pair(SOCK_STREAM, told);  /* the same, and the program has heard of it */
  check_call(send(reset[0], "unread", 6, 0) == 6 && send(reset[1], "last", 4, 0) == 4 && close(reset[1]) == 0);
  check_call(send(told[0], "unread", 6, 0) == 6 && close(told[1]) == 0);
  check(recv(told[0], text, sizeof text, 0) < 0 && errno == ECONNRESET, "no reset");
  int n = snprintf(name.sun_path, sizeof name.sun_path, "/tmp/unixes.%d.", getpid());
  memset(name.sun_path + n, 'p', sizeof name.sun_path - (size_t)n);
  fds[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
  fds[1] = socket(AF_UNIX, SOCK_DGRAM, 0);
  check_call(bind(fds[0], (struct sockaddr *)&name, sizeof name) == 0 && connect(fds[1], (struct sockaddr *)&name, sizeof name) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  expect_packets("seqpacket", open_ends, -1);
  expect_packets("seqpacket, closed", closed, 0);
  expect_packets("datagrams", datagrams, -1);
  check(recv(only_empty[1], text, sizeof text, MSG_DONTWAIT) == 0, "the only packet, an empty one, is lost");
  check(recv(only_empty[1], text, sizeof text, MSG_DONTWAIT) < 0, "one more");
  check(recv(reset[0], text, sizeof text, 0) == 4 && recv(reset[0], text, sizeof text, 0) < 0 && errno == ECONNRESET, "the reset is lost");
  check(recv(reset[0], text, sizeof text, 0) == 0 && recv(told[0], text, sizeof text, 0) == 0, "no end of the data");
  check_call(send(fds[1], "x", 1, 0) == 1 && recv(fds[0], text, sizeof text, MSG_DONTWAIT) == 1);
  int another = socket(AF_UNIX, SOCK_DGRAM, 0);
  check_call(sendto(another, "y", 1, 0, (struct sockaddr *)&name, sizeof name) == 1);
  char path[sizeof name.sun_path + 1] = "";
  memcpy(path, name.sun_path, sizeof name.sun_path);
  check_call(unlink(path) == 0);
}

static void run_refused(const char *what) {
  int ends[2], fd = -1;
  pair(SOCK_STREAM, ends);
  if (strcmp(what, "urgent") == 0)
    check_call(send(ends[0], "!", 1, MSG_OOB) == 1);
  else
    fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd >= 0)
    send_fds(ends[0], "epoll", &fd, 1);
  check_call(fd < 0 || close(fd) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *mode = argc > 2 ? argv[2] : "flight";
  if (strcmp(mode, "flight") == 0)
    run_flight();
  else if (strcmp(mode, "creds") == 0)
    run_creds();
  else if (strcmp(mode, "names") == 0)
    run_names();
  else if (strcmp(mode, "backlog") == 0)
    run_backlog();
  else if (strcmp(mode, "skipped") == 0)
    run_skipped();
  else if (strcmp(mode, "packets") == 0)
    run_packets();
  else
    run_refused(mode);
  return subject_pass();
}
