/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A parent with 96 MiB and four descendants that share it copy-on-write, each with some pages of its own: after a
 * restore they must still share, that is, the proportional sizes of all together must not have grown, and none may see
 * what another writes. */

#include "subject.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { PAGE = 4096, N_CHILDREN = 4 };
#ifndef MIB
#define MIB 96 /* tests/golden takes less; a multiple of six */
#endif
#define SIZE ((size_t)MIB << 20)
#define OWN_BYTES (SIZE / 96)
#define ALLOWED_KB (MIB * 64)

typedef struct Board {
  volatile pid_t pid[N_CHILDREN];
  volatile int verified[N_CHILDREN];
  volatile bool verify;
} Board;

static Board *board;
static uint8_t *memory;
static uint8_t *apart; /* a page that the parent never wrote to and may not use any more; the children have it */

static uint64_t word(size_t page, int owner) {
  return (uint64_t)page * 0x9e3779b97f4a7c15ULL + (uint64_t)owner * 77 + 1;
}

/* The pages that child @number wrote after the fork: a small part of its own in the middle of what is shared. */
static bool owns(size_t page, int number) {
  size_t first = (size_t)(number + 1) * (SIZE / 6 / PAGE);
  return number >= 0 && page >= first && page < first + OWN_BYTES / PAGE;
}

/* A grandchild was forked by child 0 and has its pages. */
static int writer_of(size_t page, int number) {
  int writer = number == N_CHILDREN - 1 ? 0 : number;
  return owns(page, writer) ? writer + 1 : 0;
}

static void write_own(int number) {
  for (size_t page = 0; page < SIZE / PAGE; page++)
    if (number < 0 || owns(page, number))
      for (size_t i = 0; i < PAGE; i += 512)
        *(uint64_t *)(memory + page * PAGE + i) = word(page, number + 1);
}

static void verify(int number) {
  for (size_t page = 0; page < SIZE / PAGE; page++)
    for (size_t i = 0; i < PAGE; i += 512)
      check(*(uint64_t *)(memory + page * PAGE + i) == word(page, writer_of(page, number)),
          "child %d: page %zu has been lost or mixed up", number, page);
  check(number < 0 || *apart == 40 + number % (N_CHILDREN - 1), "child %d: the page apart is %d", number, *apart);
}

static void map_apart(void) {
  uint8_t *pages = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call(pages != MAP_FAILED);
  apart = pages + PAGE;
  check_call(mprotect(apart, PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void live(int number) {
  board->pid[number] = getpid();
  for (;;) {
    if (board->verify && !board->verified[number]) {
      verify(number);
      board->verified[number] = 1;
    }
    subject_tick();
  }
}

static void grandchild(void) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid)
    return;
  check_call(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
  live(N_CHILDREN - 1);
}

static void child(int number) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid)
    return;
  check_call(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
  write_own(number);
  *apart = (uint8_t)(40 + number);
  if (number == 0)
    grandchild();
  live(number);
}

static unsigned long pss_kb(pid_t pid) {
  char path[64];
  unsigned long kb = 0;
  (void)snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
  char *text = subject_read(path, NULL), *line = strstr(text, "\nPss:");
  check(line && sscanf(line, "\nPss: %lu", &kb) == 1, "no Pss in %s", path);
  free(text);
  return kb;
}

static unsigned long all_kb(void) {
  unsigned long kb = pss_kb(getpid());
  for (int i = 0; i < N_CHILDREN; i++)
    kb += pss_kb(board->pid[i]);
  return kb;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call(board != MAP_FAILED && memory != MAP_FAILED && madvise(memory, SIZE, MADV_NOHUGEPAGE) == 0);
  write_own(-1);
  map_apart();
  for (int i = 0; i < N_CHILDREN - 1; i++)
    child(i);
  check_call(mprotect(apart, PAGE, PROT_NONE) == 0);
  for (int i = 0; i < N_CHILDREN; i++)
    while (!board->pid[i])
      subject_tick();
  (void)usleep(20000);
  unsigned long before = all_kb();
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  unsigned long after = all_kb();
  check(after <= before + ALLOWED_KB, "the tree took %lu kB and takes %lu kB", before, after);
  board->verify = true;
  verify(-1);
  for (int i = 0; i < N_CHILDREN; i++)
    for (int tries = 0; !board->verified[i] && !subject_failed(); tries++) {
      check(tries < SUBJECT_PATIENCE, "child %d does not verify", i);
      subject_tick();
    }
  /* What the parent writes now stays its own. */
  memset(memory, 0xee, SIZE / 4);
  for (int i = 0; i < N_CHILDREN; i++)
    board->verified[i] = 0;
  for (int i = 0; i < N_CHILDREN; i++)
    while (!board->verified[i] && !subject_failed())
      subject_tick();
  for (int i = 0; i < N_CHILDREN - 1; i++) {
    (void)kill(board->pid[i], SIGKILL);
    (void)waitpid(board->pid[i], NULL, 0);
  }
  return subject_pass();
}
