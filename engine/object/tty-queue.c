/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The queues of a pseudo terminal.
 *
 * Towards the master: read from the master, put back by writing to the slave with OPOST off. The master's line
 * discipline is always raw, so the bytes are the same.
 *
 * Towards the slave: raw input is read as it is. Canonical input is read line by line, then the mode is switched off to
 * get at the line that is not complete yet. It is put back by TIOCSTI, which enters bytes into the line discipline at
 * once: with echo, signals and translations off, and every byte quoted that would end a line in the wrong place.
 *
 * All of it happens in a process of its own (tty_contents_look): the tree stands still, so for some hundred
 * microseconds the bytes are nowhere but in memory that a death of the engine does not touch. Only the death of that
 * process itself in this moment would lose them. What is not kept: echoes that wait for a stopped terminal. Input
 * behind a full line discipline (4095 bytes) that was not interpreted yet is interpreted when it is read, as it would
 * have been. */

#include "tty-queue.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LDISC_SLOTS 4095u
#define INDIRECT_USEC 50000
#define WRITE_PATIENCE_MSEC 2000
#define STOP_CHAR 0x13
#define START_CHAR 0x11

#define FLUSHES (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE)

static bool polls(int fd, short events, int msec) {
  struct pollfd p = {.fd = fd, .events = events};
  return poll(&p, 1, msec) == 1 && p.revents & events;
}

static bool set_termios(int fd, const struct termios2 *t) {
  return ioctl(fd, TCSETS2, t) == 0;
}

int tty_open_peer(int master, int flags) {
  int locked = 0, unlock = 0;
  (void)ioctl(master, TIOCGPTLCK, &locked);
  if (locked)
    (void)ioctl(master, TIOCSPTLCK, &unlock);
  int fd = ioctl(master, TIOCGPTPEER, flags | O_NOCTTY);
  int e = errno;
  if (fd >= 0)
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* O_CLOEXEC would stay in its flags for ever */
  if (locked)
    (void)ioctl(master, TIOCSPTLCK, &locked);
  errno = e;
  return fd;
}

/* No bytes are translated, echoed, or taken for signals and flow control. Whether input comes in lines stays. */
static struct termios2 quiet(const struct termios2 *t) {
  struct termios2 q = *t;
  q.c_iflag &= ~(tcflag_t)(IXON | IXOFF | IXANY);
  q.c_oflag &= ~(tcflag_t)OPOST;
  q.c_lflag &= ~(tcflag_t)(ISIG | ECHO | ECHONL);
  return q;
}

static bool is_canonical(const struct termios2 *t) {
  return (t->c_lflag & ICANON) && !(t->c_lflag & EXTPROC);
}

static struct termios2 raw(const struct termios2 *t) {
  struct termios2 r = quiet(t);
  r.c_lflag &= ~(tcflag_t)ICANON;
  r.c_cc[VMIN] = 1;
  r.c_cc[VTIME] = 0;
  return r;
}

/* --- taking out --- */

/* Everything that is there, without ever waiting. */
static bool drain(int fd, guint8 *bytes, guint32 *n) {
  while (*n < TTY_BYTES_MAX && polls(fd, POLLIN, 0)) {
    ssize_t got = read(fd, bytes + *n, MIN(4096, TTY_BYTES_MAX - *n));
    if (got <= 0)
      break;
    *n += (guint32)got;
  }
  return *n < TTY_BYTES_MAX;
}

static bool ends_line(const struct termios2 *t, guint8 byte) {
  return byte == '\n' || (byte && (byte == t->c_cc[VEOL] || (byte == t->c_cc[VEOL2] && t->c_lflag & IEXTEN)));
}

/* A read gives one line. One that ends with none of these ended with an end of file, or came in before the mode was
 * set; readers cannot tell the two apart (n_tty skips an end of file behind the last byte that they had room for). */
static bool drain_lines(int peer, const struct termios2 *t, TtyContent *c) {
  while (c->n_in + 4096 < TTY_BYTES_MAX && c->n_eof < TTY_EOF_MAX && polls(peer, POLLIN, 0)) {
    ssize_t got = read(peer, c->in + c->n_in, 4096);
    if (got < 0)
      break;
    c->n_in += (guint32)got;
    c->complete = c->n_in;
    if (got == 0 || !ends_line(t, c->in[c->n_in - 1]))
      c->eof[c->n_eof++] = c->n_in;
  }
  return c->n_in + 4096 < TTY_BYTES_MAX && c->n_eof < TTY_EOF_MAX;
}

static bool drain_input(int peer, const struct termios2 *t, TtyContent *c) {
  struct termios2 q = quiet(t), r = raw(t);
  bool all = set_termios(peer, &q);
  if (all && is_canonical(t))
    all = drain_lines(peer, t, c);
  return all && set_termios(peer, &r) && drain(peer, c->in, &c->n_in);
}

/* The queue towards the master is empty, so there is room: what cannot be written to is stopped. */
static guint32 find_stopped(int peer) {
  if (polls(peer, POLLOUT, 0))
    return TTY_RUNNING;
  (void)ioctl(peer, TCXONC, TCOON);
  return polls(peer, POLLOUT, 0) ? TTY_STOPPED_BY_CALL : TTY_STOPPED_BY_CHAR;
}

/* --- putting back --- */

/* What was in a full queue goes in again only if no room is wasted. The kernel cuts it into buffers: each as large as
 * the write that needed it, 1792 bytes at most, and it holds twice that; they are given out until they are more than
 * 8192 bytes, so the last one may go far beyond. poll(2) does not say that it would: it is not asked. */
#define BUFFER_SMALL 256u
#define BUFFER_LARGE 1792u

static size_t piece_of(size_t left) {
  return left > 2 * BUFFER_LARGE ? MIN(BUFFER_SMALL, left - 2 * BUFFER_LARGE) : MIN(BUFFER_LARGE, left);
}

static int refill(int peer, const guint8 *bytes, size_t n) {
  for (int patience = WRITE_PATIENCE_MSEC; n > 0;) {
    ssize_t done = write(peer, bytes, piece_of(n));
    if (done < 0 && errno != EAGAIN && errno != EINTR)
      return -errno;
    if (done <= 0 && patience-- == 0)
      return -ENOSPC;
    if (done <= 0)
      g_usleep(1000); /* the master's line discipline takes its share in a moment */
    bytes += MAX(done, 0);
    n -= (size_t)MAX(done, 0);
  }
  return 0;
}

static int write_all(int fd, const guint8 *bytes, size_t n) {
  while (n > 0) {
    if (!polls(fd, POLLOUT, WRITE_PATIENCE_MSEC))
      return -ENOSPC;
    ssize_t done = write(fd, bytes, MIN(n, 1024));
    if (done < 0 && errno != EAGAIN && errno != EINTR)
      return -errno;
    bytes += MAX(done, 0);
    n -= (size_t)MAX(done, 0);
  }
  return 0;
}

typedef struct Feeder {
  int master, peer;
  const TtyContent *content;
  guint32 at, slots; /* bytes done, places of the line discipline taken */
  guint32 eofs;      /* ends of file done */
  guint8 quote, eof; /* control characters meanwhile */
  bool indirect;     /* through the master, since TIOCSTI is not allowed */
} Feeder;

/* Without CAP_SYS_ADMIN it goes the way that it came, and arrives later (see settle_input). */
static int insert(Feeder *f, guint8 byte) {
  char c = (char)byte;
  if (!f->indirect && ioctl(f->peer, TIOCSTI, &c) == 0)
    return 0;
  f->indirect = true;
  return write_all(f->master, &byte, 1);
}

/* What can be counted must have arrived; the line that is not complete, an end of file and a stop character cannot, and
 * get some time. */
static void settle_input(const Feeder *f, const struct termios2 *now) {
  const TtyContent *c = f->content;
  guint32 wanted = MIN(is_canonical(now) ? MIN(c->complete, f->at) : f->at, LDISC_SLOTS);
  int there = 0;
  for (int patience = 0; f->indirect && patience < 2000; patience++) {
    bool all = ioctl(f->peer, FIONREAD, &there) == 0 && (guint32)there >= wanted;
    g_usleep(all ? INDIRECT_USEC : 1000);
    if (all)
      return;
  }
}

static struct termios2 feeding(const struct termios2 *final, Feeder *f) {
  static const guint8 candidates[] = {0x16, 0x1a, 0x1d, 0x1e, 0x1f};
  struct termios2 t = quiet(final);
  t.c_lflag |= IEXTEN;
  t.c_cc[VERASE] = t.c_cc[VKILL] = t.c_cc[VWERASE] = t.c_cc[VREPRINT] = 0;
  f->eof = final->c_cc[VEOF] ? final->c_cc[VEOF] : 0x04;
  for (size_t i = 0; i < sizeof candidates; i++) {
    f->quote = candidates[i];
    if (f->quote != f->eof && f->quote != final->c_cc[VEOL] && f->quote != final->c_cc[VEOL2])
      break;
  }
  t.c_cc[VEOF] = f->eof;
  t.c_cc[VLNEXT] = f->quote;
  if (!(final->c_lflag & IEXTEN))
    t.c_cc[VEOL2] = 0;
  return t;
}

static int feed_eofs(Feeder *f) {
  const TtyContent *c = f->content;
  int e = 0;
  for (; e == 0 && f->eofs < c->n_eof && c->eof[f->eofs] == f->at && f->slots < LDISC_SLOTS; f->eofs++, f->slots++)
    e = insert(f, f->eof);
  return e;
}

static int feed_canonical(Feeder *f, const struct termios2 *t) {
  const TtyContent *c = f->content;
  int e = 0;
  for (; e == 0 && f->at < c->n_in && f->slots < LDISC_SLOTS; f->slots++) {
    e = feed_eofs(f);
    if (f->slots >= LDISC_SLOTS)
      break;
    guint8 byte = c->in[f->at];
    bool line = ends_line(t, byte);
    bool special = byte == f->eof || byte == f->quote || (line && f->at >= c->complete);
    if (e == 0 && special)
      e = insert(f, f->quote);
    if (e == 0)
      e = insert(f, byte);
    f->at++;
  }
  return e ? e : feed_eofs(f);
}

static int feed_raw(Feeder *f) {
  int e = 0;
  for (; e == 0 && f->at < f->content->n_in && f->slots < LDISC_SLOTS; f->at++, f->slots++)
    e = insert(f, f->content->in[f->at]);
  return e;
}

/* As much as the line discipline holds. */
static int feed(Feeder *f, const struct termios2 *final) {
  bool canonical = is_canonical(final);
  struct termios2 t = canonical ? feeding(final, f) : raw(final);
  t.c_iflag &= IUTF8;
  if (!canonical)
    t.c_lflag &= ~(tcflag_t)IEXTEN;
  if (!set_termios(f->peer, &t))
    return -errno;
  int e = canonical ? feed_canonical(f, &t) : feed_raw(f);
  settle_input(f, &t);
  return e;
}

/* The rest waits before the line discipline, to be interpreted when there is room. */
static int feed_rest(Feeder *f, const struct termios2 *final) {
  const TtyContent *c = f->content;
  guint8 eof = final->c_cc[VEOF];
  while (f->at < c->n_in || f->eofs < c->n_eof) {
    guint32 end = f->eofs < c->n_eof ? c->eof[f->eofs] : c->n_in;
    int e = write_all(f->master, c->in + f->at, end - f->at);
    if (e == 0 && f->eofs < c->n_eof && eof)
      e = write_all(f->master, &eof, 1);
    if (e)
      return e;
    f->eofs += f->eofs < c->n_eof;
    f->at = end;
  }
  return 0;
}

/* As if the stop character had been typed. */
static int stop_by_char(Feeder *f, const struct termios2 *final) {
  struct termios2 t = quiet(final);
  if (!(final->c_iflag & IXON))
    return 0;
  t.c_iflag |= IXON;
  t.c_cc[VSTOP] = STOP_CHAR;
  t.c_cc[VSTART] = START_CHAR;
  int e = set_termios(f->peer, &t) ? insert(f, STOP_CHAR) : -errno;
  settle_input(f, &t);
  return e;
}

static int set_packet(int master, int on) {
  return ioctl(master, TIOCPKT, &on) < 0 ? -errno : 0;
}

/* Changes of flow control and back leave their notes. */
static void note_flow(int peer, const struct termios2 *final, guint32 status) {
  struct termios2 with = *final, without = *final;
  with.c_iflag |= IXON;
  with.c_cc[VSTOP] = STOP_CHAR;
  with.c_cc[VSTART] = START_CHAR;
  without.c_iflag &= ~(tcflag_t)IXON;
  if (status & TIOCPKT_DOSTOP)
    (void)(set_termios(peer, &without) && set_termios(peer, &with));
  else if (status & TIOCPKT_NOSTOP)
    (void)(set_termios(peer, &with) && set_termios(peer, &without));
}

static void flush(int peer, guint32 status) {
  if (status & TIOCPKT_FLUSHREAD)
    (void)ioctl(peer, TCFLSH, TCIFLUSH);
  if (status & TIOCPKT_FLUSHWRITE)
    (void)ioctl(peer, TCFLSH, TCOFLUSH);
}

int tty_content_put(int master, int peer, const struct termios2 *final, bool packet, const TtyContent *c) {
  struct termios2 q = quiet(final);
  Feeder f = {.master = master, .peer = peer, .content = c, .indirect = g_getenv("CHECKPOINTD_NO_TIOCSTI")};
  /* What is done here leaves notes itself; turning it on forgets them. */
  bool early = packet && c->status & FLUSHES, late = packet && !c->status;
  int e = set_termios(peer, &q) ? 0 : -errno;
  if (e == 0 && early)
    e = set_packet(master, 1);
  if (early)
    flush(peer, c->status);
  if (e == 0)
    e = refill(peer, c->out, c->n_out);
  if (e == 0)
    e = feed(&f, final);
  if (packet && !early && !late && e == 0)
    e = set_packet(master, 1);
  if (packet && c->status)
    note_flow(peer, final, c->status);
  if (e == 0 && c->stopped == TTY_STOPPED_BY_CHAR)
    e = stop_by_char(&f, final);
  if (!set_termios(peer, final) && e == 0)
    e = -errno;
  if (packet && c->status & TIOCPKT_START)
    (void)(ioctl(peer, TCXONC, TCOOFF) == 0 && ioctl(peer, TCXONC, TCOON));
  if (c->stopped == TTY_STOPPED_BY_CALL)
    (void)ioctl(peer, TCXONC, TCOOFF);
  if (e == 0)
    e = feed_rest(&f, final);
  int on = late ? set_packet(master, 1) : 0;
  return e ? e : on;
}

/* --- looking --- */

static guint32 take_status(int master) {
  guint8 status = 0;
  if (polls(master, POLLPRI, 0) && read(master, &status, 1) != 1)
    return 0;
  return status;
}

bool tty_has_locks(const struct termios2 *locks) {
  static const cc_t none[NCCS];
  return locks->c_iflag || locks->c_oflag || locks->c_cflag || locks->c_lflag || locks->c_line ||
         memcmp(locks->c_cc, none, sizeof none) != 0;
}

static int look(int master, int peer, TtyContent *c) {
  struct termios2 t, unlocked = {0}, locks = {0};
  int packet = 0, available = 0;
  if (ioctl(peer, TCGETS2, &t) < 0)
    return -errno;
  (void)ioctl(master, TIOCGPKT, &packet);
  (void)ioctl(peer, TIOCGLCKTRMIOS, &locks);
  if (tty_has_locks(&locks))
    (void)ioctl(peer, TIOCSLCKTRMIOS, &unlocked);
  if (packet) {
    c->status = take_status(master);
    (void)set_packet(master, 0);
  }
  bool all = drain(master, c->out, &c->n_out);
  c->stopped = find_stopped(peer);
  (void)polls(peer, POLLIN, 0); /* brings in what is on its way */
  (void)ioctl(peer, FIONREAD, &available);
  bool input = available > 0 || is_canonical(&t);
  if (input)
    all = drain_input(peer, &t, c) && all;
  int e = 0;
  if (input || c->n_out || c->stopped || packet)
    e = tty_content_put(master, peer, &t, packet, c);
  if (tty_has_locks(&locks))
    (void)ioctl(peer, TIOCSLCKTRMIOS, &locks);
  return e ? e : all ? 0 : -E2BIG;
}

void tty_content_look(int master, TtyContent *c) {
  int peer = tty_open_peer(master, O_RDWR | O_NONBLOCK);
  c->error = peer < 0 ? -errno : look(master, peer, c);
  if (peer >= 0)
    (void)close(peer);
}

int tty_contents_look(const int *masters, guint n, TtyContent *contents) {
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) {
    (void)setsid();
    for (guint i = 0; i < n; i++)
      tty_content_look(masters[i], &contents[i]);
    _exit(0);
  }
  int e = pid < 0 ? -errno : 0, status = 0;
  (void)sigprocmask(SIG_SETMASK, &before, NULL);
  while (pid > 0 && waitpid(pid, &status, __WALL) < 0)
    if (errno != EINTR)
      return -errno;
  return e ? e : status ? -ECHILD : 0;
}
