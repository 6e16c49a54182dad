/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* System V shared memory as programs may tear it up, and what else there is of System V.
 *   parts      attached several times, with holes, other protections, moved, for code, removed; the child has other parts
 *   huge       in huge pages
 *   moved      a part was moved to where the whole has no room: refused
 *   free       a semaphore taken and given back, with SEM_UNDO, and messages in a queue: they stay where they are
 *   held       a semaphore that is held with SEM_UNDO: refused */

#include "subject.h"
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>

enum { PAGE = 4096, PAGES = 16, SIZE = PAGES * PAGE, HUGE = 2 << 20 };

static int ids[3], n_ids;

static void fill(unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    p[i] = (unsigned char)(i * 13 + seed);
}

static bool holds(const unsigned char *p, unsigned seed) {
  for (size_t i = 0; i < PAGE; i++)
    if (p[i] != (unsigned char)(i * 13 + seed))
      return false;
  return true;
}

static int make(size_t size, int flags) {
  int id = shmget(IPC_PRIVATE, size, IPC_CREAT | 0700 | flags);
  if (id >= 0)
    ids[n_ids++] = id;
  return id;
}

static unsigned char *attach(int id, void *at, int flags) {
  unsigned char *p = shmat(id, at, flags);
  check_call(p != (void *)-1);
  return p;
}

static void drop_all(void) {
  for (int i = 0; i < n_ids; i++)
    (void)shmctl(ids[i], IPC_RMID, NULL);
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

/* --- parts --- */

static unsigned char *torn, *again, *moved, *code, *filler;

static void make_parts(void) {
  int id = make(SIZE, 0), gone = make(SIZE, 0);
  check_call(id >= 0 && gone >= 0);
  torn = attach(id, NULL, 0);
  again = attach(id, NULL, SHM_RDONLY);
  for (unsigned i = 0; i < PAGES; i++)
    fill(torn + i * PAGE, i);
  check_call(munmap(torn + 4 * PAGE, 4 * PAGE) == 0 && mprotect(torn + 10 * PAGE, PAGE, PROT_READ) == 0);
  /* something else in the hole */
  filler = mmap(torn + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  check_call(filler == torn + 5 * PAGE);
  fill(filler, 100);
  check_call(munmap(again, 2 * PAGE) == 0 && munmap(again + 14 * PAGE, 2 * PAGE) == 0);
  moved = attach(gone, NULL, 0);
  fill(moved + 3 * PAGE, 200);
  unsigned char *room = mmap(NULL, 4 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call(room != MAP_FAILED && munmap(room, 4 * SIZE) == 0);
  check_call(mremap(moved, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, room + SIZE) == room + SIZE);
  moved = room + SIZE;
  code = attach(gone, NULL, SHM_EXEC);
  memcpy(code + PAGE, "\xb8\x2a\0\0\0\xc3", 6); /* return 42 */
  check_call(shmctl(gone, IPC_RMID, NULL) == 0);
}

static void verify_parts(bool is_child) {
  for (unsigned i = 0; i < PAGES; i++) {
    check((i >= 4 && i < 8) || (is_child && i == 15) ? true : holds(torn + i * PAGE, i), "page %u of the torn one differs", i);
    check(i < 2 || i >= 14 || (is_child && i < 4) ? true : holds(again + i * PAGE, i), "page %u of the read-only one differs", i);
  }
  check(holds(filler, 100), "what lies in the hole differs");
  check(holds(moved + 3 * PAGE, 200) && holds(code + 3 * PAGE, 200), "the removed one differs");
  check(((int (*)(void))(code + PAGE))() == 42, "code does not run");
  check(mprotect(again + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES, "read-only memory can be written");
}

static int run_parts(void) {
  make_parts();
  volatile uint32_t *word = (uint32_t *)(void *)(torn + 15 * PAGE), *other = (uint32_t *)(void *)(torn + 9 * PAGE);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    check_call(munmap(again + 2 * PAGE, 2 * PAGE) == 0);
    while (!subject_checking())
      subject_tick();
    while (*word != 1)
      subject_tick();
    verify_parts(true);
    *other = 2;
    _exit(0);
  }
  wait_for_check();
  verify_parts(false);
  uint32_t before = *word, before_other = *other;
  *word = 1;
  while (*other == before_other && !subject_failed())
    subject_tick();
  *word = before;
  check(*other == 2, "the child shares it no longer");
  check_call(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  /* the four parts are one attach to shmdt(2) */
  check_call(shmdt(torn) == 0);
  check(msync(torn, PAGE, MS_ASYNC) < 0 && msync(torn + 12 * PAGE, PAGE, MS_ASYNC) < 0, "parts are left after shmdt");
  check(holds(filler, 100), "shmdt has taken what is not its own");
  drop_all();
  return subject_pass();
}

static int run_huge(void) {
  int id = make(2 * HUGE, SHM_HUGETLB);
  if (id < 0)
    subject_skip("no huge pages");
  unsigned char *p = attach(id, NULL, 0), *q = attach(id, NULL, SHM_RDONLY);
  fill(p, 1);
  fill(p + HUGE + 5 * PAGE, 2);
  check_call(munmap(q, HUGE) == 0);
  wait_for_check();
  check(holds(p, 1) && holds(p + HUGE + 5 * PAGE, 2) && holds(q + HUGE + 5 * PAGE, 2), "huge pages differ");
  drop_all();
  return subject_pass();
}

static int run_moved(void) {
  int id = make(SIZE, 0);
  unsigned char *p = attach(id, NULL, 0);
  check_call(mremap(p + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 2 * PAGE) == p + 2 * PAGE);
  wait_for_check();
  drop_all();
  return subject_pass();
}

/* --- semaphores, messages --- */

static int run_semaphore(bool held) {
  struct {
    long type;
    char text[8];
  } message = {7, "seven"};
  int set = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600), queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
  check_call(set >= 0 && queue >= 0);
  check_call(semctl(set, 1, SETVAL, 1) == 0 && msgsnd(queue, &message, sizeof message.text, 0) == 0);
  struct sembuf take = {1, -1, SEM_UNDO}, give = {1, 1, SEM_UNDO};
  check_call(semop(set, &take, 1) == 0);
  if (!held)
    check_call(semop(set, &give, 1) == 0);
  wait_for_check();
  check(semctl(set, 1, GETVAL) == (held ? 0 : 1), "the semaphore is %d", semctl(set, 1, GETVAL));
  memset(message.text, 0, sizeof message.text);
  check_call(msgrcv(queue, &message, sizeof message.text, 7, IPC_NOWAIT) == sizeof message.text);
  check(strcmp(message.text, "seven") == 0, "the message is %s", message.text);
  check_call(semctl(set, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0);
  return subject_pass();
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *mode = argc > 2 ? argv[2] : "parts";
  if (strcmp(mode, "huge") == 0)
    return run_huge();
  if (strcmp(mode, "moved") == 0)
    return run_moved();
  if (strcmp(mode, "held") == 0 || strcmp(mode, "free") == 0)
    return run_semaphore(strcmp(mode, "held") == 0);
  return run_parts();
}
