/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A process from another kernel, whose vdso has its functions elsewhere: it puts such a one in the place of the real one.
 * That one's clock stands still. After the restore calls through the old addresses must give the time of this kernel; a
 * thread that stood in the middle of an old function, where a jump is now, comes to its end. A 32-bit program makes its system
 * calls there. With an argument it has rings of io_uring(7), too, whose mappings only the kernel can place. */

#include "subject.h"
#include <elf.h>
#include <link.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { SYMBOLS = 0x100, STRINGS = 0x180, DYNAMIC = 0x200, GETTIME = 0x900, TIME = 0xa40, OLD_SECONDS = 42 };

static const char names[] = "\0__vdso_clock_gettime\0__vdso_time\0__kernel_vsyscall";
#ifdef __i386__
#define CLASS ELFCLASS32
#define MACHINE EM_386
/* mov 8(%esp), %eax; movl $42, (%eax); movl $7, 4(%eax); xor %eax, %eax; ret */
static const unsigned char gettime_code[] = {0x8b, 0x44, 0x24, 8, 0xc7, 0, OLD_SECONDS, 0, 0, 0, 0xc7, 0x40, 4, 7, 0, 0, 0, 0x31, 0xc0, 0xc3};
/* mov $42, %eax; ret */
static const unsigned char time_code[] = {0xb8, OLD_SECONDS, 0, 0, 0, 0xc3};
/* Every system call is made here; who waits in one stands behind the second byte. int $0x80; ret */
static const unsigned char call_code[] = {0xcd, 0x80, 0xc3, 0x90, 0x90, 0x90};
#else
#define CLASS ELFCLASS64
#define MACHINE EM_X86_64
static const unsigned char call_code[0];
/* movq $42, (%rsi); movq $7, 8(%rsi); xor %eax, %eax; ret */
static const unsigned char gettime_code[] = {0x48, 0xc7, 0x06, OLD_SECONDS, 0, 0, 0, 0x48, 0xc7, 0x46, 8, 7, 0, 0, 0, 0x31, 0xc0, 0xc3};
/* nop; 1: cmpl $0, (%rdi); je 1b; mov $42, %eax; ret */
static const unsigned char time_code[] = {0x90, 0x83, 0x3f, 0, 0x74, 0xfb, 0xb8, OLD_SECONDS, 0, 0, 0, 0xc3};
#endif

static int (*old_gettime)(clockid_t, struct timespec *);
static long (*old_time)(volatile int *);

static ElfW(Sym) symbol(unsigned name, unsigned value, unsigned size) {
  return (ElfW(Sym)){.st_name = name, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = 5, .st_value = value, .st_size = size};
}

static void make_object(unsigned char *object, size_t size) {
  unsigned call = sizeof call_code ? (unsigned)(getauxval(AT_SYSINFO) - (unsigned long)object) : TIME + 64;
  const ElfW(Sym) symbols[] = {{0}, symbol(1, GETTIME, sizeof gettime_code), symbol(22, TIME, sizeof time_code), symbol(34, call, sizeof call_code)};
  check(call > DYNAMIC + 256 && call + 16 < size && (call < GETTIME - 16 || call > TIME + 32), "the object has no room at %x", call);
  const ElfW(Dyn) dynamic[] = {{DT_STRTAB, {STRINGS}}, {DT_SYMTAB, {SYMBOLS}}, {DT_STRSZ, {sizeof names}}, {DT_NULL, {0}}};
  const ElfW(Phdr) ph[] = {{.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = size, .p_memsz = size, .p_align = 4096},
      {.p_type = PT_DYNAMIC, .p_flags = PF_R, .p_offset = DYNAMIC, .p_vaddr = DYNAMIC, .p_filesz = sizeof dynamic}};
  const ElfW(Ehdr) header = {.e_ident = {0x7f, 'E', 'L', 'F', CLASS, ELFDATA2LSB, EV_CURRENT}, .e_type = ET_DYN, .e_machine = MACHINE,
      .e_version = EV_CURRENT, .e_phoff = sizeof header, .e_ehsize = sizeof header, .e_phentsize = sizeof *ph, .e_phnum = 2};
  memset(object, 0, size);
  memcpy(object, &header, sizeof header);
  memcpy(object + sizeof header, ph, sizeof ph);
  memcpy(object + SYMBOLS, symbols, sizeof symbols);
  memcpy(object + STRINGS, names, sizeof names);
  memcpy(object + DYNAMIC, dynamic, sizeof dynamic);
  memcpy(object + GETTIME, gettime_code, sizeof gettime_code);
  memcpy(object + TIME, time_code, sizeof time_code);
  memcpy(object + call, call_code, sizeof call_code);
}

/* From here on the C library's clocks cannot be called: it knows the real vdso's addresses. */
static void replace_vdso(void) {
  unsigned char *object = (unsigned char *)getauxval(AT_SYSINFO_EHDR); /* NOLINT(performance-no-int-to-ptr) */
  char *maps = subject_read("/proc/self/maps", NULL), start[32];
  (void)snprintf(start, sizeof start, "%lx-", (unsigned long)object);
  char *line = strstr(maps, start);
  check(line && object, "there is no vdso");
  size_t size = strtoul(line + strlen(start), NULL, 16) - (unsigned long)object;
  free(maps);
  check_call(mprotect(object, size, PROT_READ | PROT_WRITE | PROT_EXEC) == 0); /* 32-bit system calls come back to it */
  make_object(object, size);
  check_call(mprotect(object, size, PROT_READ | PROT_EXEC) == 0);
  old_gettime = (int (*)(clockid_t, struct timespec *))(object + GETTIME);
  old_time = (long (*)(volatile int *))(object + TIME);
}

static volatile int go_on;
static volatile long came_back;

static volatile int tid;
static _Atomic int *n_inside; /* in both processes */

/* It has spent 10 ms of processor time in the loop inside, or sleeps inside. */
static void await_inside(void) {
  struct timespec used = {0};
  while (!tid)
    subject_tick();
  clockid_t clock = (clockid_t)(~(unsigned)tid << 3 | 6); /* of that thread, as in pthread_getcpuclockid(3) */
  while (sizeof call_code == 0 && used.tv_sec == 0 && used.tv_nsec < 10000000) {
    subject_tick();
    check_call(syscall(SYS_clock_gettime, clock, &used) == 0);
  }
  ++*n_inside;
}

static void *stand_inside(void *unused) {
  tid = (int)syscall(SYS_gettid);
#ifdef __i386__
  while (!go_on)
    (void)poll(NULL, 0, 20); /* stands inside by its system call */
  came_back = OLD_SECONDS;
#else
  came_back = old_time(&go_on);
#endif
  return unused;
}

static bool before_or_at(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec <= b->tv_nsec);
}

static void verify_time(void) {
  struct timespec before, now, real;
  check_call(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before) == 0 && old_gettime(CLOCK_MONOTONIC, &now) == 0 && syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &real) == 0);
  check(before_or_at(&before, &now) && before_or_at(&now, &real), "the old function's time is %ld.%09ld", (long)now.tv_sec, (long)now.tv_nsec);
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &before);
  long seconds = old_time(NULL);
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
  check(before.tv_sec - 1 <= seconds && seconds <= real.tv_sec, "it is %ld, and not %ld", (long)real.tv_sec, seconds);
}

typedef struct Ring {
  int fd;
  struct io_uring_params p;
  unsigned char *rings;
  struct io_uring_sqe *sqes;
} Ring;

static Ring ring_new(unsigned flags) {
  Ring r = {.p = {.flags = flags, .sq_thread_idle = 20}};
  r.fd = (int)syscall(SYS_io_uring_setup, 4, &r.p);
  if (r.fd < 0 && (errno == ENOSYS || errno == EPERM))
    subject_skip("this kernel has no io_uring, or does not allow it");
  check_call(r.fd >= 0);
  r.rings = mmap(NULL, r.p.cq_off.cqes + r.p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_SQ_RING);
  r.sqes = mmap(NULL, r.p.sq_entries * sizeof *r.sqes, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_SQES);
  check_call(r.rings != MAP_FAILED && r.sqes != MAP_FAILED);
  return r;
}

/* One request that does nothing, through the mapped memory. */
static void ring_use(const Ring *r, unsigned number) {
  volatile unsigned *tail = (volatile unsigned *)(void *)(r->rings + r->p.sq_off.tail), *cq = (volatile unsigned *)(void *)(r->rings + r->p.cq_off.tail);
  const struct io_uring_cqe *cqes = (const struct io_uring_cqe *)(const void *)(r->rings + r->p.cq_off.cqes);
  unsigned at = *tail % r->p.sq_entries, done = *cq;
  r->sqes[at] = (struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = number};
  ((unsigned *)(void *)(r->rings + r->p.sq_off.array))[at] = at;
  __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
  check_call(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP, NULL, 0) >= 0);
  check(*cq == done + 1 && cqes[done % r->p.cq_entries].user_data == number, "request %u is not done", number);
  *(volatile unsigned *)(void *)(r->rings + r->p.cq_off.head) = done + 1;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  Ring rings[2] = {0};
  bool has_rings = argc > 2;
  replace_vdso();
  struct timespec now;
  check(old_gettime(CLOCK_MONOTONIC, &now) == 0 && now.tv_sec == OLD_SECONDS, "the old vdso does not work");
  n_inside = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(n_inside != MAP_FAILED);
  pid_t child = fork();
  check_call(child >= 0);
  for (unsigned i = 0; child && has_rings && i < 2; i++) {
    rings[i] = ring_new(i ? IORING_SETUP_SQPOLL : 0);
    ring_use(&rings[i], 100 + i);
  }
  pthread_t inside;
  check_call(pthread_create(&inside, NULL, stand_inside, NULL) == 0);
  await_inside();
  while (*n_inside < 2)
    subject_tick();
  if (child)
    subject_ready();
  while (!subject_checking())
    subject_tick();
  go_on = 1;
  check_call(pthread_join(inside, NULL) == 0);
  check(came_back == OLD_SECONDS, "the thread inside came back with %ld", came_back);
  verify_time();
  for (unsigned i = 0; child && has_rings && i < 2; i++)
    ring_use(&rings[i], 200 + i);
  if (!child)
    _exit(0);
  int status = 0;
  check(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  return subject_pass();
}
