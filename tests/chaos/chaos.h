/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A tree of processes that does random things, one at a time, and knows what must come of each.
 *
 * The first process deals out the steps: it draws who does what, so a seed gives the same steps each time. What is open
 * to several processes is modelled in memory that all share; what is a process's own, in its own. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { N_ACTORS = 14, N_OBJECTS = 48, N_ENDS = 2, N_MAPPINGS = 12, N_WORKERS = 5 };

typedef enum Kind {
  KIND_NONE,
  KIND_PIPE,
  KIND_STREAM,
  KIND_DATAGRAM,
  KIND_PACKET,
  KIND_TCP,
  KIND_TERMINAL,
  KIND_EVENTFD,
  KIND_TIMERFD,
  KIND_SIGNALFD,
  KIND_EPOLL,
  KIND_FILE,
  KIND_MEMFD,
  KIND_LISTENER,
  N_KINDS,
} Kind;

/* One way of a pipe or a pair of sockets: positions in an endless sequence of bytes that everybody can compute. */
typedef struct Way {
  uint64_t head, tail;
} Way;

typedef struct Object {
  Kind kind;
  uint32_t id;
  Way ways[2];           /* what end 1 reads, what end 0 reads */
  uint64_t value;        /* eventfd's counter, a file's length, a timer's end, a mask of signals */
  uint64_t offset;       /* a file's */
  uint32_t flags;        /* semaphore, append, interval */
  int member, events;    /* of an epoll: another object, -1 none */
  bool unlinked, broken; /* a file without a name; a pair one end of which is gone */
} Object;

typedef struct Actor {
  pid_t pid;
  int parent; /* who forked it, or adopted it */
  bool alive, zombie;
  uint32_t post, done; /* futexes: steps given, steps done */
  uint64_t step;       /* the random number of the step */
  uint32_t what;
  int fds[N_OBJECTS][N_ENDS];
} Actor;

typedef struct Shared {
  Object objects[N_OBJECTS];
  Actor actors[N_ACTORS];
  uint32_t next_id;
  uint64_t steps;
  char failure[400];
  char directory[200];
} Shared;

extern Shared *shared;
extern int self; /* index of this process among the actors */

/* What goes wrong is written down once, and everything ends. */
#define must(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, __VA_ARGS__))
_Noreturn void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

uint64_t draw(uint64_t *state);
uint8_t byte_at(uint32_t id, uint64_t position);

/* objects.c: what descriptors stand for. */
void object_create(uint64_t *r);
void object_change(uint64_t *r);
void object_close(uint64_t *r);
void object_duplicate(uint64_t *r);
void objects_verify(void);
/* After each step, by the first process: forgets what nobody has open any more. */
void objects_settle(void);
bool end_is_held(int object, int end);

/* memory.c: mappings of this process. */
void memory_create(uint64_t *r);
void memory_change(uint64_t *r);
void memory_verify(void);

/* workers.c: threads of this process, signals, timers. */
void worker_start(uint64_t *r);
void worker_wake(uint64_t *r);
void workers_verify(void);
void workers_forget(void); /* in a fork, which has none of them */
void signal_queue(uint64_t *r);
void signal_take(uint64_t *r);
void timer_change(uint64_t *r);
void timers_forget(void); /* in a fork */
void signals_begin(void);
