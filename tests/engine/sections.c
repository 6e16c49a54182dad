/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Restartable sequences (rseq(2)) and membarrier(2). A thread is in a critical section most of the time: one that was
 * interrupted by a checkpoint must never be finished. Another has registered an area of another size with a signature of its
 * own; a third has none. What the process has registered for with membarrier(2) goes on, what it has not does not. */

#include "subject.h"
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#define OTHER_SIGNATURE 0x12345678
#define OTHER_BYTES 64
#define UNREGISTER 1
/* Cycles, a tenth of a millisecond: many times what passes between two of the readings of run_sections(), and less than
 * any end of a process and making it again can take. */
#define NOT_HERE 300000ULL

static volatile bool ending, ready_other, ready_none;
static volatile unsigned long committed, aborted;

static struct rseq *area_of_libc(void) {
  return (struct rseq *)(void *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* Falls when the process is brought back: it has used no time yet. */
static uint64_t used(void) {
  return subject_nsec(CLOCK_PROCESS_CPUTIME_ID);
}

/* Spins inside; the last instruction commits. *begin and *end: when, by the processor's clock. */
__attribute__((noinline)) static bool section(struct rseq *area, uint64_t spins, uint64_t *begin, uint64_t *end) {
  uint32_t done = 0;
  __asm__ volatile(".pushsection __rseq_cs_subject, \"aw\"\n\t"
                   ".balign 32\n"
                   "3:\t.long 0, 0\n\t"
                   ".quad 1f, 2f - 1f, 4f\n\t"
                   ".popsection\n\t"
                   "rdtsc\n\tshlq $32, %%rdx\n\torq %%rdx, %%rax\n\tmovq %%rax, (%[begin])\n\t"
                   "leaq 3b(%%rip), %%rax\n\tmovq %%rax, (%[cs])\n"
                   "1:\tdecq %[spins]\n\tjnz 1b\n\t"
                   "rdtsc\n\tshlq $32, %%rdx\n\torq %%rdx, %%rax\n\tmovq %%rax, (%[end])\n\t"
                   "movl $1, (%[done])\n"
                   "2:\tjmp 5f\n\t"
                   ".byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n"
                   "4:\n5:\n"
                   : [spins] "+r"(spins)
                   : [cs] "r"(&area->rseq_cs), [begin] "r"(begin), [end] "r"(end), [done] "r"(&done)
                   : "rax", "rdx", "memory", "cc");
  return done;
}

static uint64_t cycles(void) {
  return __builtin_ia32_rdtsc();
}

static void *run_sections(void *data) {
  (void)data;
  struct rseq *area = area_of_libc();
  while (!ending && !subject_failed()) {
    uint64_t begin, end, before = cycles(), then = used(); /* a checkpoint in used() is one between before and begin */
    bool done = section(area, committed % 4 ? 3000000 : 300000, &begin, &end);
    uint64_t now = used(), after = cycles();
    if (!done) {
      aborted++;
      continue;
    }
    committed++;
    /* brought back in the middle, and not before or after it */
    check(now >= then || begin - before > NOT_HERE || after - end > NOT_HERE, "a critical section was finished in another life");
  }
  return NULL;
}

static void check_registered(struct rseq *area, uint32_t size, uint32_t signature, const char *who) {
  long n = syscall(SYS_rseq, area, size, 0, signature);
  check(n < 0 && errno == EBUSY, "%s: registered with other values: %ld %s", who, n, strerror(errno));
  for (int i = 0; i < 1000; i++) {
    int before = sched_getcpu(), seen = (int)*(volatile uint32_t *)&area->cpu_id;
    if (before == sched_getcpu() && before == seen)
      return;
  }
  subject_fail("%s: the kernel does not keep its area: processor %d", who, (int)area->cpu_id);
}

static void *run_other(void *data) {
  (void)data;
  static struct rseq_place {
    struct rseq area;
    char rest[OTHER_BYTES];
  } place __attribute__((aligned(OTHER_BYTES)));
  uint32_t size = OTHER_BYTES;
  check_call(syscall(SYS_rseq, area_of_libc(), 32, UNREGISTER, RSEQ_SIG) == 0);
  if (syscall(SYS_rseq, &place.area, size, 0, OTHER_SIGNATURE) < 0 && errno == EINVAL) /* before 6.3 there is one size */
    check_call(syscall(SYS_rseq, &place.area, size = 32, 0, OTHER_SIGNATURE) == 0);
  ready_other = true;
  while (!ending && !subject_failed())
    subject_tick();
  check_registered(&place.area, size, OTHER_SIGNATURE, "the thread with an area of its own");
  check_call(syscall(SYS_rseq, &place.area, size, UNREGISTER, OTHER_SIGNATURE) == 0);
  return NULL;
}

static void *run_none(void *data) {
  (void)data;
  check_call(syscall(SYS_rseq, area_of_libc(), 32, UNREGISTER, RSEQ_SIG) == 0);
  ready_none = true;
  while (!ending && !subject_failed())
    subject_tick();
  check(syscall(SYS_rseq, area_of_libc(), 32, UNREGISTER, RSEQ_SIG) < 0, "the thread without an area has one");
  return NULL;
}

static int barrier(int command) {
  return (int)syscall(SYS_membarrier, command, 0, 0);
}

static void check_barriers(void) {
  check(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0, "the private membarrier is gone: %s", strerror(errno));
  check(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ) == 0, "that of restartable sequences is gone: %s", strerror(errno));
  check(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) < 0 && errno == EPERM, "one is there that was not");
  int all = barrier(1 << 9); /* MEMBARRIER_CMD_GET_REGISTRATIONS, since 6.3 */
  check(all < 0 ||
            all == (MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ |
                       MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED), "registered for 0x%x", all);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  if (!__rseq_size)
    subject_skip("this libc registers no rseq area");
  check_call(barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 && barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ) == 0 &&
             barrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0);
  pthread_t threads[3];
  check_call(pthread_create(&threads[0], NULL, run_sections, NULL) == 0 && pthread_create(&threads[1], NULL, run_other, NULL) == 0 &&
             pthread_create(&threads[2], NULL, run_none, NULL) == 0);
  while ((!ready_other || !ready_none || !committed) && !subject_failed())
    subject_tick();
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  unsigned long then = committed;
  for (int i = 0; i < 2000 && committed == then && !subject_failed(); i++)
    subject_tick();
  check(committed != then, "no critical section comes to its end any more (%lu were, %lu were aborted)", then, aborted);
  check_registered(area_of_libc(), 32, RSEQ_SIG, "the main thread");
  check_barriers();
  ending = true;
  for (int i = 0; i < 3; i++)
    check_call(pthread_join(threads[i], NULL) == 0);
  return subject_pass();
}
