/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What a pseudo terminal holds that nobody has read yet, in both directions. The kernel lets nobody look at it: it is
 * taken out and put back. */

#include <asm/termbits.h>
#include <glib.h>
#include <stdbool.h>

/* Each direction holds 4 KiB in the line discipline and some 8 KiB before it. */
#define TTY_BYTES_MAX (96u << 10)
#define TTY_EOF_MAX 4096u

enum { TTY_RUNNING = 0, TTY_STOPPED_BY_CHAR = 1, TTY_STOPPED_BY_CALL = 2 };

/* Plain memory, shared between processes. */
typedef struct TtyContent {
  int error;           /* of the last operation: negative errno or 0 */
  guint32 stopped;     /* output of the slave */
  guint32 status;      /* TIOCPKT_* that the master has not read */
  guint32 n_out, n_in; /* bytes for the master's reader, for the slave's */
  /* Of the slave's input in canonical mode: so many bytes are complete lines; ends of file stand at these offsets. */
  guint32 complete, n_eof;
  guint32 eof[TTY_EOF_MAX];
  guint8 out[TTY_BYTES_MAX], in[TTY_BYTES_MAX];
} TtyContent;

/* Whether any setting is locked (TIOCGLCKTRMIOS); the speeds in there mean nothing. */
bool tty_has_locks(const struct termios2 *locks);
/* A new description of the slave side of @master (TIOCGPTPEER), CLOEXEC, whatever its lock says; -1 with errno. Never
 * makes it a controlling terminal. */
int tty_open_peer(int master, int flags);
/* Its master is @master, whose slave is open, or was: takes everything out, notes it, and puts it back. */
void tty_content_look(int master, TtyContent *content);
/* Puts everything into a pair whose queues are empty, and leaves it with @final and @packet mode. @peer: a non-blocking
 * descriptor of the slave, open for both. Negative errno or 0. */
int tty_content_put(int master, int peer, const struct termios2 *final, bool packet, const TtyContent *content);
/* tty_content_look() for @n pairs, in a process of its own that outlives this one: whatever happens here, what was taken
 * out is put back. @contents must be memory shared with children. Negative errno or 0. */
int tty_contents_look(const int *masters, guint n, TtyContent *contents);
