/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Pseudo terminals of a tree that holds both ends: argv[2] says what about them. No signal may come of a dump or a
 * restore. */

#include "subject.h"
#include <asm/termbits.h>
#include <poll.h>
#include <signal.h>
#include <stdnoreturn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

typedef struct Pair {
  int master, slave;
  unsigned index;
} Pair;

static volatile sig_atomic_t signals_seen, last_signal;

static void on_signal(int signo) {
  signals_seen++;
  last_signal = signo;
}

static void watch_signals(void) {
  static const int watched[] = {SIGHUP, SIGCONT, SIGTTIN, SIGTTOU, SIGWINCH, SIGINT, SIGTSTP};
  for (size_t i = 0; i < sizeof watched / sizeof *watched; i++)
    check_call(signal(watched[i], on_signal) != SIG_ERR);
}

static void check_signals(void) {
  check(signals_seen == 0, "%d signals came, the last was %d", (int)signals_seen, (int)last_signal);
}

static Pair pair_open(const char *path) {
  Pair p;
  int unlock = 0;
  p.master = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  check_call(p.master >= 0 && ioctl(p.master, TIOCSPTLCK, &unlock) == 0 && ioctl(p.master, TIOCGPTN, &p.index) == 0);
  char name[32];
  (void)snprintf(name, sizeof name, "/dev/pts/%u", p.index);
  p.slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
  check_call(p.slave >= 0);
  return p;
}

static struct termios2 get(int fd) {
  struct termios2 t;
  check_call(ioctl(fd, TCGETS2, &t) == 0);
  return t;
}

static void set(int fd, struct termios2 t) {
  check_call(ioctl(fd, TCSETS2, &t) == 0);
}

static void make_raw(int fd) {
  struct termios2 t = get(fd);
  t.c_iflag = 0;
  t.c_oflag = 0;
  t.c_lflag = 0;
  t.c_cc[VMIN] = 1;
  t.c_cc[VTIME] = 0;
  set(fd, t);
}

static void no_echo(int fd) {
  struct termios2 t = get(fd);
  t.c_lflag &= ~(tcflag_t)ECHO;
  set(fd, t);
}

/* Sooner or later. */
static bool polls(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  return poll(&p, 1, 30000) == 1 && p.revents & events;
}

static bool polls_now(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  return poll(&p, 1, 0) == 1 && p.revents & events;
}

static bool polls_soon(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  return poll(&p, 1, 300) == 1 && p.revents & events;
}

/* What was written comes to the other end by a worker of the kernel's. */
static bool arrived(int fd, int bytes) {
  int n = 0;
  return subject_await(ioctl(fd, FIONREAD, &n) == 0 && n >= bytes);
}

static void put(int fd, const void *bytes, size_t n) {
  const char *at = bytes;
  while (n > 0) {
    ssize_t done = write(fd, at, n > 500 ? 500 : n);
    check_call(done > 0);
    at += done;
    n -= (size_t)done;
  }
}

/* One read, which must give exactly that. */
static void expect(int fd, const char *what, const void *bytes, size_t n) {
  char got[8192];
  check(n == 0 || polls(fd, POLLIN), "%s: nothing to read", what);
  ssize_t k = read(fd, got, sizeof got);
  check(k == (ssize_t)n && memcmp(got, bytes, n) == 0, "%s: %zd bytes '%.*s' (%s), not %zu '%.*s'", what, k,
      k > 0 ? (int)k : 0, got, k < 0 ? strerror(errno) : "", n, (int)n, (const char *)bytes);
}

/* The same of a master: what its slave wrote may come in parts. */
static void expect_output(int fd, const char *what, const char *bytes, size_t n) {
  char got[64];
  size_t k = 0;
  for (ssize_t more; k < n && polls(fd, POLLIN); k += (size_t)more)
    check((more = read(fd, got + k, sizeof got - k)) > 0, "%s: %s", what, strerror(errno));
  check(k == n && memcmp(got, bytes, n) == 0, "%s: %zu bytes '%.*s', not '%s'", what, k, (int)k, got, bytes);
}

static void expect_nothing(int fd, const char *what) {
  char got[64];
  struct pollfd p = {.fd = fd, .events = POLLIN};
  check(poll(&p, 1, 50) == 0, "%s: something more to read (%x)", what, p.revents);
  check(fcntl(fd, F_GETFL) & O_NONBLOCK ? read(fd, got, sizeof got) < 0 && errno == EAGAIN : true, "%s: %s", what,
      strerror(errno));
}

/* All of it, in any number of reads. */
static void expect_stream(int fd, const char *what, const unsigned char *bytes, size_t n) {
  unsigned char got[8192];
  for (size_t at = 0; at < n;) {
    check(polls(fd, POLLIN), "%s: %zu of %zu bytes", what, at, n);
    ssize_t k = read(fd, got, sizeof got);
    check(k > 0 && at + (size_t)k <= n && memcmp(got, bytes + at, (size_t)k) == 0, "%s: other bytes at %zu of %zu",
        what, at, n);
    at += (size_t)k;
  }
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
}

static unsigned char *pattern(size_t n) {
  unsigned char *bytes = malloc(n);
  check(bytes != NULL, "no memory");
  for (size_t i = 0; i < n; i++)
    bytes[i] = (unsigned char)(i * 7 + i / 256);
  return bytes;
}

/* --- what is not read yet --- */

static void content_lines(void) {
  Pair p = pair_open("/dev/ptmx"), push = pair_open("/dev/ptmx");
  struct termios2 t = get(p.slave);
  t.c_lflag &= ~(tcflag_t)ECHO;
  t.c_cc[VEOL] = ';';
  set(p.slave, t);
  put(p.slave, "to the master\n", 14);
  /* lines of all kinds: newline, EOL, a quoted end of file, end of file with and without text, no end yet */
  put(p.master, "first\nsecond;a\026\004b\nthird\004\004\ntyp\177pe", 32);
  make_raw(push.slave);
  put(push.master, "ahead", 5);
  check(arrived(push.slave, 5), "nothing comes to the slave");
  (void)poll(NULL, 0, 50);
  struct termios2 cooked = get(p.slave);
  set(push.slave, cooked);
  put(push.master, "line\n", 5);
  (void)poll(NULL, 0, 50);
  wait_for_check();
  expect_output(p.master, "output", "to the master\r\n", 15);
  expect_nothing(p.master, "output");
  expect(p.slave, "line", "first\n", 6);
  expect(p.slave, "line with EOL", "second;", 7);
  expect(p.slave, "line with a quoted end of file", "a\004b\n", 4);
  expect(p.slave, "line without newline", "third", 5);
  expect(p.slave, "end of file", "", 0);
  expect(p.slave, "empty line", "\n", 1);
  expect_nothing(p.slave, "the line that is not complete");
  put(p.master, "\177d\n", 3); /* it can still be edited */
  expect(p.slave, "the line that is complete now", "typd\n", 5);
  char byte;
  for (const char *s = "ahead"; *s; s++)
    check(read(push.slave, &byte, 1) == 1 && byte == *s, "what came before the mode: %c", byte);
  expect(push.slave, "the line after it", "line\n", 5);
}

static void content_raw(void) {
  Pair small = pair_open("/dev/ptmx"), large = pair_open("/dev/pts/ptmx");
  size_t n_small = 3000, n_large = 9000, n_out = 9500;
  unsigned char *bytes = pattern(n_out);
  make_raw(small.slave);
  make_raw(large.slave);
  put(small.master, bytes, n_small);
  put(small.slave, bytes, n_small);
  put(large.master, bytes, n_large);
  put(large.slave, bytes, n_out);
  (void)poll(NULL, 0, 50);
  wait_for_check();
  expect_stream(small.master, "output", bytes, n_small);
  expect_stream(small.slave, "input", bytes, n_small);
  expect_stream(large.master, "much output", bytes, n_out);
  expect_stream(large.slave, "much input", bytes, n_large);
  expect_nothing(large.slave, "much input");
  expect_nothing(large.master, "much output");
}

/* --- settings --- */

/* Output until not a byte more goes in, in writes of all sizes: how much that is depends on them. */
static void content_full(void) {
  static const size_t sizes[] = {1, 7, 100, 256, 300, 1000, 1792, 2048, 4096};
  enum { N = sizeof sizes / sizeof *sizes, MAX = 64 << 10 };
  Pair p[N];
  size_t filled[N];
  unsigned char *bytes = pattern(MAX);
  for (int i = 0; i < N; i++) {
    p[i] = pair_open("/dev/ptmx");
    make_raw(p[i].slave);
    check_call(fcntl(p[i].slave, F_SETFL, O_NONBLOCK) == 0);
    filled[i] = 0;
    for (int patience = 20; patience > 0 && filled[i] + sizes[i] <= MAX;) {
      ssize_t k = write(p[i].slave, bytes + filled[i], sizes[i]);
      filled[i] += k > 0 ? (size_t)k : 0;
      patience -= k <= 0 ? poll(NULL, 0, 1) + 1 : 0;
    }
    check(filled[i] > 8192, "only %zu bytes fit in", filled[i]);
  }
  wait_for_check();
  for (int i = 0; i < N; i++) {
    expect_stream(p[i].master, "a full queue", bytes, filled[i]);
    expect_nothing(p[i].master, "a full queue");
  }
}

static void settings(void) {
  Pair p = pair_open("/dev/ptmx"), locked = pair_open("/dev/ptmx"), usual = pair_open("/dev/ptmx");
  struct winsize w = {.ws_row = 33, .ws_col = 121, .ws_xpixel = 7, .ws_ypixel = 8}, now;
  struct termios2 t = get(p.slave), after, locks = {0}, locks_after;
  int one = 1, value = 0;
  t.c_iflag = (t.c_iflag | IXON | IUTF8 | INLCR) & ~(tcflag_t)ICRNL;
  t.c_lflag = (t.c_lflag | NOFLSH) & ~(tcflag_t)(ECHOK | ECHOE);
  t.c_cflag = (t.c_cflag & ~(tcflag_t)CBAUD) | BOTHER;
  t.c_ispeed = t.c_ospeed = 31250;
  for (int i = 0; i < 10; i++)
    t.c_cc[i] = (cc_t)(0x80 + i);
  set(p.slave, t);
  t = get(p.slave);
  locks.c_lflag = ECHO;
  check_call(ioctl(p.slave, TIOCSLCKTRMIOS, &locks) == 0 && ioctl(p.master, TIOCSWINSZ, &w) == 0);
  check_call(fchown(p.slave, 1234, 4321) == 0 && fchmod(p.slave, 0640) == 0);
  check_call(ioctl(p.master, TIOCPKT, &one) == 0 && ioctl(p.slave, TIOCEXCL) == 0);
  check_call(ioctl(locked.master, TIOCSPTLCK, &one) == 0 && ioctl(locked.master, TIOCEXCL) == 0);
  check_call(ioctl(usual.master, TIOCPKT, &one) == 0);
  put(usual.slave, "packet", 6);
  put(p.slave, "data", 4);
  check_call(ioctl(p.slave, TCFLSH, TCIFLUSH) == 0); /* a note for the master */
  wait_for_check();
  after = get(p.slave);
  check(memcmp(&t, &after, sizeof t) == 0, "termios differ: lflag %x, was %x", after.c_lflag, t.c_lflag);
  check_call(ioctl(p.slave, TIOCGLCKTRMIOS, &locks_after) == 0 && ioctl(p.slave, TIOCGWINSZ, &now) == 0);
  check(locks_after.c_lflag == ECHO && locks_after.c_iflag == 0, "locked flags %x", locks_after.c_lflag);
  check(memcmp(&w, &now, sizeof w) == 0, "window %dx%d", now.ws_row, now.ws_col);
  struct stat st;
  check_call(fstat(p.slave, &st) == 0);
  check(st.st_uid == 1234 && st.st_gid == 4321 && (st.st_mode & 07777) == 0640, "owner %u:%u, mode %o", st.st_uid,
      st.st_gid, st.st_mode);
  check_call(ioctl(p.master, TIOCGPKT, &value) == 0);
  check(value, "no packet mode");
  expect(p.master, "the note", "\001", 1);
  expect(p.master, "a packet", "\0data", 5);
  expect(usual.master, "a packet without notes", "\0packet", 7);
  check_call(ioctl(p.slave, TIOCGEXCL, &value) == 0);
  check(value, "not exclusive");
  check_call(ioctl(p.master, TIOCGEXCL, &value) == 0);
  check(!value, "the master is exclusive");
  check_call(ioctl(locked.master, TIOCGPTLCK, &value) == 0);
  check(value, "not locked");
  check_call(ioctl(locked.master, TIOCGEXCL, &value) == 0);
  check(value, "the other master is not exclusive");
}

/* --- flow --- */

static void stopped(void) {
  Pair by_char = pair_open("/dev/ptmx"), by_call = pair_open("/dev/ptmx"), running = pair_open("/dev/ptmx");
  no_echo(by_char.slave);
  put(by_char.slave, "before\n", 7);
  put(by_char.master, "\023", 1);
  put(by_call.slave, "before\n", 7);
  (void)poll(NULL, 0, 50);
  check_call(ioctl(by_call.slave, TCXONC, TCOOFF) == 0);
  check(subject_await(!polls_now(by_char.slave, POLLOUT)) && !polls_now(by_call.slave, POLLOUT), "they are not stopped");
  wait_for_check();
  check(!polls_soon(by_char.slave, POLLOUT), "not stopped by ^S any more");
  check(!polls_soon(by_call.slave, POLLOUT), "not stopped by tcflow any more");
  check(polls(running.slave, POLLOUT), "stopped, though it never was");
  expect_output(by_char.master, "output before", "before\r\n", 8);
  expect_output(by_call.master, "output before", "before\r\n", 8);
  put(by_call.master, "\021", 1);
  check(!polls_soon(by_call.slave, POLLOUT), "^Q is not what it waits for");
  check_call(ioctl(by_call.slave, TCXONC, TCOON) == 0);
  put(by_char.master, "\021", 1);
  check(polls(by_char.slave, POLLOUT) && polls(by_call.slave, POLLOUT), "they do not go on");
  put(by_char.slave, "after\n", 6);
  expect_output(by_char.master, "output after", "after\r\n", 7);
}

/* --- hang-ups --- */

static void hangups(void) {
  Pair slave_left = pair_open("/dev/ptmx"), master_left = pair_open("/dev/ptmx");
  int untouched = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
  int second = dup(slave_left.slave);
  char byte;
  check_call(untouched >= 0 && second >= 0);
  put(slave_left.master, "lost\n", 5);
  check_call(close(slave_left.master) == 0);
  put(master_left.slave, "last words\n", 11);
  check_call(close(master_left.slave) == 0);
  wait_for_check();
  check(polls(slave_left.slave, POLLHUP), "the slave is not hung up");
  check(read(slave_left.slave, &byte, 1) == 0, "a read of what is hung up");
  check(write(second, "x", 1) < 0 && errno == EIO, "a write to what is hung up: %s", strerror(errno));
  expect_output(master_left.master, "what was written before", "last words\r\n", 12);
  check(polls(master_left.master, POLLHUP) && read(master_left.master, &byte, 1) < 0 && errno == EIO,
      "the master does not see that the slave is closed");
  check(!polls_now(untouched, POLLHUP) && read(untouched, &byte, 1) < 0 && errno == EAGAIN,
      "the master whose slave was never opened: %s", strerror(errno));
  char name[32];
  (void)snprintf(name, sizeof name, "/dev/pts/%u", master_left.index);
  int again = open(name, O_RDWR | O_NOCTTY);
  check(again >= 0, "the slave cannot be opened again: %s", strerror(errno));
  put(again, "hello\n", 6);
  expect_output(master_left.master, "what it says then", "hello\r\n", 7);
}

/* --- sessions --- */

typedef struct Board {
  pid_t leader, background, plain, late, second;
  int leader_ok, background_ok, plain_ok, late_ok, second_ok;
} Board;
static Board *board;

static pid_t foreground_of(int fd) {
  pid_t pgrp = 0;
  return ioctl(fd, TIOCGPGRP, &pgrp) == 0 ? pgrp : -1;
}

static int tty_nr_of(pid_t pid) {
  char path[64];
  (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
  char *text = subject_read(path, NULL), *after = strrchr(text, ')');
  int ppid, pgrp, sid, tty = -1;
  char state;
  check(after && sscanf(after + 1, " %c %d %d %d %d", &state, &ppid, &pgrp, &sid, &tty) == 5, "%s: %s", path, text);
  free(text);
  return tty;
}

static noreturn void linger(int *ok) {
  while (!subject_checking() && !subject_failed())
    subject_tick();
  check_signals();
  *ok = 1;
  for (;;)
    (void)pause();
}

/* In a group of its own, which is in the foreground or not. */
static pid_t start_job(int *ok) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0) {
    check_call(setpgid(0, 0) == 0);
    linger(ok);
  }
  check_call(setpgid(pid, pid) == 0 || errno == EACCES);
  return pid;
}

static noreturn void lead_session(int slave) {
  check_call(setsid() > 0);
  pid_t early = fork(); /* knows the session, not the terminal */
  if (early == 0) {
    board->plain = getpid();
    linger(&board->plain_ok);
  }
  check_call(ioctl(slave, TIOCSCTTY, 0) == 0);
  board->late = start_job(&board->late_ok);
  board->background = start_job(&board->background_ok);
  sigset_t ttou;
  (void)sigemptyset(&ttou);
  (void)sigaddset(&ttou, SIGTTOU);
  (void)sigprocmask(SIG_BLOCK, &ttou, NULL);
  check_call(ioctl(slave, TIOCSPGRP, &board->late) == 0);
  (void)sigprocmask(SIG_UNBLOCK, &ttou, NULL);
  int tty = open("/dev/tty", O_RDWR | O_NONBLOCK);
  check_call(tty >= 0);
  board->leader = getpid();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  char name[64] = "";
  check(readlink("/proc/self/fd/0", name, sizeof name) > 0, "no descriptor 0");
  check(foreground_of(slave) == board->late, "foreground group %d, was %d", foreground_of(slave), board->late);
  check(foreground_of(tty) == board->late, "/dev/tty is of another session: %s", strerror(errno));
  put(tty, "through /dev/tty\n", 17);
  check_signals();
  board->leader_ok = 1;
  for (;;)
    (void)pause();
}

/* Its group was in the foreground, and nobody is left in it. */
static noreturn void lead_empty(int slave) {
  check_call(setsid() > 0 && ioctl(slave, TIOCSCTTY, 0) == 0);
  pid_t gone = fork();
  if (gone == 0)
    for (;;)
      (void)pause();
  check_call(setpgid(gone, gone) == 0);
  (void)signal(SIGTTOU, SIG_IGN);
  check_call(ioctl(slave, TIOCSPGRP, &gone) == 0);
  check_call(kill(gone, SIGKILL) == 0 && waitpid(gone, NULL, 0) == gone);
  board->second = getpid();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  check(foreground_of(slave) == gone, "foreground group %d, was %d, which is empty", foreground_of(slave), gone);
  check_signals();
  board->second_ok = 1;
  for (;;)
    (void)pause();
}

static void sessions(void) {
  Pair p = pair_open("/dev/ptmx"), q = pair_open("/dev/ptmx");
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(board != MAP_FAILED);
  pid_t leader = fork();
  if (leader == 0)
    lead_session(p.slave);
  pid_t second = fork();
  if (second == 0)
    lead_empty(q.slave);
  while (!board->leader || !board->second || !board->plain)
    subject_tick();
  (void)poll(NULL, 0, 100);
  wait_for_check();
  int wanted = (int)(136 << 8 | p.index);
  check(subject_await((board->leader_ok && board->late_ok && board->background_ok && board->plain_ok && board->second_ok) || subject_failed()),
      "%d %d %d %d %d", board->leader_ok, board->late_ok, board->background_ok, board->plain_ok, board->second_ok);
  check(
      tty_nr_of(board->leader) == wanted && tty_nr_of(board->late) == wanted && tty_nr_of(board->background) == wanted,
      "they lost their terminal");
  check(tty_nr_of(board->plain) == 0, "a task got a terminal that it never had");
  expect_output(p.master, "what came through /dev/tty", "through /dev/tty\r\n", 18);
  (void)kill(board->plain, SIGKILL);
  (void)kill(board->late, SIGKILL);
  (void)kill(board->background, SIGKILL);
  (void)kill(leader, SIGKILL);
  (void)kill(second, SIGKILL);
  while (wait(NULL) > 0)
    ;
}

/* Numbers with holes between, which are needed again. */
static void numbers(void) {
  Pair p[12];
  unsigned index;
  for (int i = 0; i < 12; i++)
    p[i] = pair_open("/dev/ptmx");
  for (int i = 0; i < 12; i++)
    if (i % 3 != 2) {
      check_call(close(p[i].slave) == 0 && close(p[i].master) == 0);
    }
  wait_for_check();
  for (int i = 2; i < 12; i += 3) {
    check_call(ioctl(p[i].master, TIOCGPTN, &index) == 0);
    check(index == p[i].index, "number %u, was %u", index, p[i].index);
    no_echo(p[i].slave);
    put(p[i].master, "x\n", 2);
    expect(p[i].slave, "through a pair", "x\n", 2);
  }
}

/* A slave whose master is somebody else's. */
static void orphan(void) {
  Pair p = pair_open("/dev/ptmx");
  pid_t self = getpid();
  pid_t maker = fork();
  if (maker == 0) {
    if (fork() == 0) {
      (void)setsid();
      (void)close(p.slave);
      while (kill(self, 0) == 0)
        subject_tick();
    }
    _exit(0);
  }
  check_call(waitpid(maker, NULL, 0) == maker && close(p.master) == 0);
  wait_for_check();
  check_signals();
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } all[] = {{"lines", content_lines}, {"raw", content_raw}, {"full", content_full}, {"settings", settings},
      {"stopped", stopped}, {"hangups", hangups}, {"sessions", sessions}, {"numbers", numbers}, {"orphan", orphan}};
  subject_begin(argc, argv);
  watch_signals();
  for (size_t i = 0; argc > 2 && i < sizeof all / sizeof *all; i++)
    if (strcmp(argv[2], all[i].name) == 0) {
      all[i].run();
      check_signals();
      return subject_pass();
    }
  subject_fail("which case?");
}
