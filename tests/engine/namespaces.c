/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Namespaces of the tree's own.
 *
 *   uts        names of a machine, in a process, in its child and apart from it in another child
 *   mounts     mounts of all kinds, files in them, and a child outside
 *   ties       the same, with peers, followers and one that must not be bound
 *   many       the same as mounts, with hundreds of open files in two of them */
#include "subject.h"
#include <sched.h>
#include <signal.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static ino_t inode_of(const char *kind) {
  char path[64];
  struct stat st;
  (void)snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
  check_call(stat(path, &st) == 0);
  return st.st_ino;
}

/* --- uts --- */

static void name_machine(const char *host, const char *domain) {
  check_call(unshare(CLONE_NEWUTS) == 0);
  check_call(sethostname(host, strlen(host)) == 0 && setdomainname(domain, strlen(domain)) == 0);
}

static void check_names(const char *host, const char *domain) {
  struct utsname names;
  check_call(uname(&names) == 0);
  check(strcmp(names.nodename, host) == 0, "the host is called %s, not %s", names.nodename, host);
  check(strcmp(names.domainname, domain) == 0, "the domain is called %s, not %s", names.domainname, domain);
}

/* Says over @fd where it is, as often as it is asked. */
static pid_t fork_namer(int *ret_fd, bool apart) {
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid > 0) {
    (void)close(ends[1]);
    *ret_fd = ends[0];
    return pid;
  }
  (void)close(ends[0]);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (apart)
    name_machine("apart", "elsewhere");
  for (char c; read(ends[1], &c, 1) == 1;) {
    ino_t ino = inode_of("uts");
    check_names(apart ? "apart" : "subject", apart ? "elsewhere" : "example.org");
    check_call(write(ends[1], &ino, sizeof ino) == sizeof ino);
  }
  _exit(0);
}

static ino_t ask(int fd) {
  ino_t ino = 0;
  check_call(write(fd, "?", 1) == 1 && read(fd, &ino, sizeof ino) == sizeof ino);
  return ino;
}

static void test_uts(void) {
  int with = -1, apart = -1;
  name_machine("subject", "example.org");
  (void)fork_namer(&with, false);
  (void)fork_namer(&apart, true);
  check(ask(with) == inode_of("uts") && ask(apart) != inode_of("uts"), "the children are not where they should be");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_names("subject", "example.org");
  check(ask(with) == inode_of("uts"), "the child is not in its parent's uts namespace");
  check(ask(apart) != inode_of("uts"), "the other child is in its parent's uts namespace");
}

/* --- mounts --- */

static char directory[PATH_MAX]; /* of the test: what is below it is ours */

static const char *in(const char *name) {
  static char paths[8][PATH_MAX];
  static int turn;
  char *path = paths[turn++ % 8];
  (void)snprintf(path, PATH_MAX, "%.2000s/%.1000s", directory, name);
  return path;
}

static void make_file(const char *path, const char *text) {
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0640);
  check_call(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void check_file(const char *path, const char *text) {
  char *is = subject_read(path, NULL);
  check(strcmp(is, text) == 0, "%s has \"%.100s\", not \"%.100s\"", path, is, text);
  free(is);
}

/* Without the numbers of mounts, which nobody can choose, but with how they hang together. */
static char *all_mounts(void) {
  char *text = subject_read("/proc/self/mountinfo", NULL), *out = calloc(1, 65536), *rest = NULL;
  int ids[512], n = 0, groups[64], n_groups = 0;
  for (char *line = strtok_r(text, "\n", &rest); line && n < 512; line = strtok_r(NULL, "\n", &rest)) {
    int parent = 0, at = 0, place = -1;
    check_call(sscanf(line, "%d %d %*s %n", &ids[n], &parent, &at) == 2 && at > 0);
    for (int i = 0; i < n; i++)
      place = ids[i] == parent ? i : place;
    n++;
    /* a device of its own has another number; peer groups are numbered anew */
    char fields[4096] = "", *more = NULL, *field = strtok_r(line + at, " ", &more);
    for (; field; field = strtok_r(NULL, " ", &more)) {
      char *number = strncmp(field, "shared:", 7) == 0 || strncmp(field, "master:", 7) == 0 ? field + 7 : NULL;
      size_t have = strlen(fields);
      int group = -1;
      for (int i = 0; number && i < n_groups; i++)
        group = groups[i] == atoi(number) ? i : group;
      if (number && group < 0 && n_groups < 64) {
        group = n_groups;
        groups[n_groups++] = atoi(number);
      }
      (void)snprintf(fields + have, sizeof fields - have, number ? " %.7s%d" : " %s", field, group);
    }
    (void)snprintf(out + strlen(out), 65536 - strlen(out), "on %d:%s\n", place, fields);
  }
  free(text);
  return out;
}

static int compare_lines(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The kernel's order is that in which they were mounted. */
static char *mounts_by_place(void) {
  char *text = all_mounts(), *out = calloc(1, 65536), *lines[512], *rest = NULL;
  int n = 0;
  for (char *line = strtok_r(text, "\n", &rest); line && n < 512; line = strtok_r(NULL, "\n", &rest))
    lines[n++] = strchr(line, ':');
  qsort(lines, (size_t)n, sizeof *lines, compare_lines);
  for (int i = 0; i < n; i++)
    (void)snprintf(out + strlen(out), 65536 - strlen(out), "%s\n", lines[i]);
  free(text);
  return out;
}

static void set_directory(const char *base) {
  (void)snprintf(directory, sizeof directory, "%s.d", base);
  check_call(mkdir(directory, 0755) == 0 || errno == EEXIST);
}

static void make_mounts(void) {
  static const char *const names[] = {"tmp", "deep", "hidden", "bound", "part", "again", "proc", "pts", "queue", "ro"};
  check_call(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    check_call(mkdir(in(names[i]), 0755) == 0);
  make_file(in("file"), "a file outside");
  make_file(in("onto"), "hidden by another file");
  /* its own */
  check_call(mount("mine", in("tmp"), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=1777,nr_inodes=100") == 0);
  check_call(mkdir(in("tmp/sub"), 0700) == 0 && mkdir(in("tmp/sub/more"), 0755) == 0 && mkfifo(in("tmp/fifo"), 0600) == 0);
  make_file(in("tmp/sub/file"), "kept in memory");
  check_call(link(in("tmp/sub/file"), in("tmp/sub/second")) == 0 && symlink("sub/file", in("tmp/link")) == 0);
  check_call(chown(in("tmp/sub/file"), 1234, 4321) == 0);
  /* one over the other, and one hidden below */
  check_call(mount("deep", in("deep"), "tmpfs", 0, NULL) == 0 && mkdir(in("deep/a"), 0755) == 0);
  make_file(in("deep/a/low"), "low");
  check_call(mount(in("hidden"), in("deep/a"), NULL, MS_BIND, NULL) == 0);
  make_file(in("hidden/high"), "high");
  /* parts of others, of files, of what is its own */
  check_call(mount(directory, in("bound"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(in("file"), in("onto"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(in("tmp/sub"), in("part"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(in("part"), in("again"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(NULL, in("again"), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC | MS_NOATIME, NULL) == 0);
  /* the kernel's */
  check_call(mount("proc", in("proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
  check_call(mount("pts", in("pts"), "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5") == 0);
  check_call(mount("queue", in("queue"), "mqueue", 0, NULL) == 0);
  check_call(mount("ro", in("ro"), "tmpfs", 0, NULL) == 0);
  make_file(in("ro/file"), "cannot be changed");
  check_call(mount(NULL, in("ro"), NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0);
}

/* Who is whose peer, and who follows whom. */
static void tie_mounts(void) {
  check_call(mount(NULL, in("tmp"), NULL, MS_SHARED, NULL) == 0);
  check_call(mkdir(in("tmp/peer"), 0755) == 0 && mkdir(in("peer"), 0755) == 0 && mkdir(in("slave"), 0755) == 0);
  check_call(mount(in("tmp"), in("peer"), NULL, MS_BIND, NULL) == 0);
  check_call(mount(in("tmp"), in("slave"), NULL, MS_BIND, NULL) == 0 && mount(NULL, in("slave"), NULL, MS_SLAVE, NULL) == 0);
  check_call(mount(NULL, in("deep"), NULL, MS_UNBINDABLE, NULL) == 0);
}

static void check_mounts(const char *before) {
  struct stat a, b;
  char *now = mounts_by_place();
  check(strcmp(now, before) == 0, "the mounts were\n%s\nthey are\n%s", before, now);
  free(now);
  check_file(in("tmp/sub/file"), "kept in memory");
  check_file(in("tmp/link"), "kept in memory");
  check_file(in("part/second"), "kept in memory");
  check_file(in("again/file"), "kept in memory");
  check_file(in("deep/a/high"), "high");
  check_file(in("onto"), "a file outside");
  check_file(in("bound/file"), "a file outside");
  check_file(in("ro/file"), "cannot be changed");
  check_call(stat(in("tmp/sub/file"), &a) == 0 && stat(in("tmp/sub/second"), &b) == 0);
  check(a.st_ino == b.st_ino && a.st_nlink == 2 && a.st_uid == 1234 && a.st_gid == 4321 && (a.st_mode & 07777) == 0640,
      "a file of the tmpfs is not what it was");
  check_call(stat(in("tmp"), &a) == 0 && stat(in("tmp/fifo"), &b) == 0);
  check((a.st_mode & 07777) == 01777 && S_ISFIFO(b.st_mode), "the tmpfs is not what it was");
  check(open(in("ro/file"), O_WRONLY) < 0 && errno == EROFS, "the file system can be written to");
  check(open(in("again/file"), O_WRONLY) < 0 && errno == EROFS, "the mount can be written to");
}

/* It still spreads: what is mounted in one appears in its peer and in who follows it, not the other way. */
static void check_ties(void) {
  check_call(mount("new", in("tmp/peer"), "tmpfs", 0, NULL) == 0);
  make_file(in("tmp/peer/news"), "spread");
  check_file(in("peer/peer/news"), "spread");
  check_file(in("slave/peer/news"), "spread");
  check_call(umount(in("slave/peer")) == 0);
  check_file(in("peer/peer/news"), "spread");
  check_call(umount(in("peer/peer")) == 0);
  check(access(in("tmp/peer/news"), F_OK) < 0, "the peer's unmounting did not spread");
}

/* Files that are open, mapped, or where somebody stands. */
typedef struct Held {
  int file, fifo, outside, queue;
  char *map;
} Held;

static Held hold_files(void) {
  Held h = {.file = open(in("tmp/sub/file"), O_RDWR | O_CLOEXEC), .fifo = open(in("tmp/fifo"), O_RDWR | O_CLOEXEC),
      .outside = open(in("bound/file"), O_RDONLY | O_CLOEXEC), .queue = open(in("proc/self/stat"), O_PATH | O_CLOEXEC)};
  check_call(h.file >= 0 && h.fifo >= 0 && h.outside >= 0 && h.queue >= 0);
  (void)close(h.queue);
  check_call(lseek(h.file, 5, SEEK_SET) == 5 && write(h.fifo, "waits", 5) == 5);
  h.map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, h.file, 0);
  check_call(h.map != MAP_FAILED && chdir(in("part")) == 0);
  return h;
}

static void check_held(const Held *h) {
  char text[16] = "", cwd[PATH_MAX];
  struct stat open_one, named;
  check(read(h->file, text, 15) == 9 && strcmp(text, "in memory") == 0, "the open file gives \"%s\"", text);
  check(read(h->fifo, text, 5) == 5 && memcmp(text, "waits", 5) == 0, "the FIFO gives \"%.5s\"", text);
  check(memcmp(h->map, "kept in memory", 14) == 0, "the mapping shows something else");
  h->map[0] = 'K';
  check_file(in("tmp/sub/file"), "Kept in memory");
  h->map[0] = 'k';
  check_call(lseek(h->file, 5, SEEK_SET) == 5 && write(h->fifo, "waits", 5) == 5);
  check_call(fstat(h->file, &open_one) == 0 && stat(in("tmp/sub/second"), &named) == 0);
  check(open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev, "the open file is another one");
  check(getcwd(cwd, sizeof cwd) && strcmp(cwd, in("part")) == 0, "it stands in %s", cwd);
  check_file("file", "kept in memory");
}

enum { MANY = 400 };

static void hold_many(int *fds) {
  for (int i = 0; i < MANY; i++) {
    fds[i] = open(in(i % 2 ? "tmp/sub/second" : "bound/file"), O_RDONLY | (i % 3 ? O_CLOEXEC : 0));
    check_call(fds[i] >= 0 && lseek(fds[i], i % 5, SEEK_SET) == i % 5);
  }
}

static void check_many(const int *fds) {
  struct stat inside, outside, st;
  check_call(stat(in("tmp/sub/second"), &inside) == 0 && stat(in("bound/file"), &outside) == 0);
  for (int i = 0; i < MANY; i++) {
    const struct stat *wanted = i % 2 ? &inside : &outside;
    check_call(fstat(fds[i], &st) == 0);
    check(st.st_ino == wanted->st_ino && st.st_dev == wanted->st_dev, "descriptor %d is another file", fds[i]);
    check(lseek(fds[i], 0, SEEK_CUR) == i % 5, "descriptor %d is at another place", fds[i]);
    check(fcntl(fds[i], F_GETFD) == (i % 3 ? FD_CLOEXEC : 0), "descriptor %d: its flags", fds[i]);
  }
}

/* It stays outside. */
static pid_t fork_outsider(int *ret_fd) {
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid > 0) {
    (void)close(ends[1]);
    *ret_fd = ends[0];
    return pid;
  }
  (void)close(ends[0]);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (char c; read(ends[1], &c, 1) == 1;) {
    ino_t ino = access(in("tmp/sub/file"), F_OK) < 0 && access(in("file"), F_OK) == 0 ? inode_of("mnt") : 0;
    check_call(write(ends[1], &ino, sizeof ino) == sizeof ino);
  }
  _exit(0);
}

static void test_mounts(const char *base, bool tied, bool many) {
  int outsider = -1, insider = -1, fds[MANY];
  set_directory(base);
  (void)fork_outsider(&outsider);
  make_mounts();
  if (tied)
    tie_mounts();
  (void)fork_namer(&insider, true); /* in the same mounts, and another uts namespace */
  Held held = hold_files();
  if (many)
    hold_many(fds);
  char *before = mounts_by_place();
  check_held(&held);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_mounts(before);
  check_held(&held);
  if (many)
    check_many(fds);
  if (tied)
    check_ties();
  ino_t theirs = ask(outsider);
  check(theirs && theirs != inode_of("mnt"), "the child that was outside is not");
  check(ask(insider) != inode_of("uts"), "the other child is in its parent's uts namespace");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "uts";
  if (strcmp(what, "uts") == 0)
    test_uts();
  else if (strcmp(what, "mounts") == 0 || strcmp(what, "ties") == 0 || strcmp(what, "many") == 0)
    test_mounts(argv[1], strcmp(what, "ties") == 0, strcmp(what, "many") == 0);
  else
    subject_fail("what is %s?", what);
  return subject_pass();
}
