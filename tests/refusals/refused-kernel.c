/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Objects that are in the kernel only: descriptors and mappings of them. */

#include "refused.h"
#include <asm/ldt.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PAGE = 4096 };

static int bpf_array(uint32_t flags) {
  union bpf_attr attr = {
      .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 4, .map_flags = flags};
  return kept((int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr));
}

/* Of a process that has ended. */
static void seccomp_listener(void) {
  struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const struct sock_fprog program = {.len = 1, .filter = &allow};
  int pair[2], fd = -1;
  check_call(pipe2(pair, O_CLOEXEC) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0) {
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    (void)!write(pair[1], &fd, sizeof fd);
    for (;;)
      (void)pause();
  }
  check(read(pair[0], &fd, sizeof fd) == sizeof fd && fd >= 0, "no listener");
  int pidfd = kept((int)syscall(SYS_pidfd_open, pid, 0));
  (void)kept((int)syscall(SYS_pidfd_getfd, pidfd, fd, 0));
  check_call(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid && close(pidfd) == 0 && close(pair[0]) == 0 &&
             close(pair[1]) == 0);
}

/* A kind of descriptor that no table knows. */
static void bpf_types(void) {
  struct {
    uint16_t magic;
    uint8_t version, flags;
    uint32_t header, type_at, type_size, text_at, text_size;
    uint32_t type[4];
    char text[8];
  } types = {.magic = 0xeb9f,
      .version = 1,
      .header = 24,
      .type_size = 16,
      .text_at = 16,
      .text_size = 8,
      .type = {1, 1u << 24, 4, 32},
      .text = "\0int"};
  union bpf_attr attr = {.btf = (uint64_t)&types, .btf_size = sizeof types};
  (void)kept((int)syscall(SYS_bpf, BPF_BTF_LOAD, &attr, sizeof attr));
}

static void objects(void) {
  struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE, .size = sizeof clock, .config = PERF_COUNT_SW_TASK_CLOCK};
  struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
  (void)bpf_array(0);
  bpf_types();
  (void)kept((int)syscall(SYS_perf_event_open, &clock, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
  (void)kept((int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0));
  (void)kept((int)syscall(SYS_fsopen, "tmpfs", 0));
  seccomp_listener();
}

/* A machine that has run has a thread of the kernel's in this process. */
static void machine(int kvm) {
  int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
  int cpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
  if (cpu >= 0)
    (void)ioctl(cpu, KVM_RUN, 0);
}

static void devices(void) {
  if (open("/dev/loop-control", O_RDWR | O_CLOEXEC) < 0)
    subject_skip("no loop devices here");
  /* Those that are not on every machine. */
  machine(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (open("/dev/vda", O_RDONLY | O_CLOEXEC) < 0)
    (void)open("/dev/zram0", O_RDONLY | O_CLOEXEC);
  (void)open("/dev/mem", O_RDONLY | O_CLOEXEC);
}

static __attribute__((noinline)) int probed(int n) {
  __asm__ volatile("");
  return n + 1;
}

static void uprobe(void) {
  FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
  struct perf_event_attr attr = {.size = sizeof attr};
  int type = 0;
  if (!f || fscanf(f, "%d", &type) != 1)
    subject_skip("no uprobes");
  (void)fclose(f);
  f = fopen("/proc/self/maps", "re");
  unsigned long start, end, offset, at = (unsigned long)probed;
  char line[4096];
  check_call(f);
  while (fgets(line, sizeof line, f) &&
         (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) != 3 || at < start || at >= end))
    ;
  (void)fclose(f);
  attr.type = (uint32_t)type;
  attr.uprobe_path = (uint64_t) "/proc/self/exe";
  attr.probe_offset = at - start + offset;
  int fd = (int)syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0)
    subject_skip("no uprobes here");
  check(probed(1) == 2, "it does not count");
}

static int ring(struct io_uring_params *p, unsigned entries) {
  int fd = (int)syscall(SYS_io_uring_setup, entries, p);
  if (fd < 0)
    subject_skip("no io_uring");
  return fd;
}

static void mappings(void) {
  struct io_uring_params p = {0};
  int array = bpf_array(BPF_F_MMAPABLE), fd = ring(&p, 4);
  check_call(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, array, 0) != MAP_FAILED && close(array) == 0);
  check_call(
      mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING) != MAP_FAILED &&
      close(fd) == 0);
}

/* --- rings of io_uring, each with something of its own --- */

static void registers(int fd, unsigned opcode, void *data, unsigned n) {
  check(syscall(SYS_io_uring_register, fd, opcode, data, n) >= 0, "io_uring_register %u: %s", opcode, strerror(errno));
}

static void ring_restricted(void) {
  struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED};
  struct io_uring_restriction only = {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP};
  int fd = ring(&p, 4);
  registers(fd, IORING_REGISTER_RESTRICTIONS, &only, 1);
  registers(fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static void ring_of_files(bool twice) {
  struct io_uring_params p = {0};
  char *path = place(twice ? "twice" : "alone");
  int file = kept(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  registers(ring(&p, 4), IORING_REGISTER_FILES, &file, 1);
  if (twice)
    (void)kept(open(path, O_RDWR | O_CLOEXEC));
  else
    check_call(close(file) == 0);
}

static void rings_of_one_thread(void) {
  struct io_uring_params first = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1}, second = first;
  int fd = ring(&first, 4);
  second.flags |= IORING_SETUP_ATTACH_WQ;
  second.wq_fd = (uint32_t)fd;
  (void)ring(&second, 4);
}

static void *make_single(void *data) {
  struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER};
  *(int *)data = ring(&p, 4);
  return NULL;
}

static void ring_of_dead_thread(void) {
  int fd = -1;
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, make_single, &fd) == 0 && pthread_join(thread, NULL) == 0);
}

static void registered_number(void) {
  struct io_uring_params p = {0}, other = {0};
  struct io_uring_rsrc_update number = {.offset = -1U, .data = (uint64_t)ring(&p, 4)};
  (void)ring(&other, 4);
  registers((int)number.data, 20 /* IORING_REGISTER_RING_FDS */, &number, 1);
}

/* Requests of a ring that is used for nothing else. */
static void put(int fd, const struct io_uring_params *p, const struct io_uring_sqe *requests, uint32_t n) {
  char *words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  struct io_uring_sqe *sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
  check_call(words != MAP_FAILED && (void *)sqes != MAP_FAILED);
  for (uint32_t i = 0; i < n; i++) {
    sqes[i] = requests[i];
    *(uint32_t *)(void *)(words + p->sq_off.array + i * 4) = i;
  }
  __atomic_store_n((uint32_t *)(void *)(words + p->sq_off.tail), n, __ATOMIC_RELEASE);
  check_call(syscall(SYS_io_uring_enter, fd, n, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) == (long)n);
}

static struct io_uring_sqe poll_of(int fd) {
  return (struct io_uring_sqe){.opcode = IORING_OP_POLL_ADD, .fd = fd, .poll32_events = 1};
}

static void ring_linked(const int ends[2]) {
  struct io_uring_params p = {0};
  struct io_uring_sqe two[2] = {poll_of(ends[0]), {.opcode = IORING_OP_NOP}};
  two[0].flags = IOSQE_IO_LINK;
  int fd = ring(&p, 4);
  put(fd, &p, two, 2);
}

static void ring_with_credentials(const int ends[2]) {
  struct io_uring_params p = {0};
  struct io_uring_sqe one = poll_of(ends[0]);
  int fd = ring(&p, 4), id = (int)syscall(SYS_io_uring_register, fd, IORING_REGISTER_PERSONALITY, NULL, 0);
  check_call(id > 0);
  one.personality = (uint16_t)id;
  put(fd, &p, &one, 1);
}

static void ring_of_closed_file(void) {
  struct io_uring_params p = {0};
  int ends[2], fd = ring(&p, 4);
  check_call(pipe2(ends, O_CLOEXEC) == 0);
  struct io_uring_sqe one = poll_of(ends[0]);
  put(fd, &p, &one, 1);
  check_call(close(ends[0]) == 0);
}

static void ring_with_a_part(void) {
  static char text[8];
  struct io_uring_params p = {0};
  int ends[2], fd = ring(&p, 4);
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 && write(ends[1], "part", 4) == 4);
  struct io_uring_sqe one = {.opcode = IORING_OP_RECV, .fd = ends[0], .addr = (uint64_t)text, .len = 8, .msg_flags = MSG_WAITALL};
  put(fd, &p, &one, 1);
}

static void ring_with_closed_eventfd(void) {
  struct io_uring_params p = {0};
  int fd = ring(&p, 4), event = eventfd(0, EFD_CLOEXEC);
  registers(fd, IORING_REGISTER_EVENTFD, &event, 1);
  check_call(close(event) == 0);
}

static void ring_with_thread(bool waits, const int ends[2]) {
  struct io_uring_params p = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1};
  int fd = ring(&p, 4), event = eventfd(0, EFD_CLOEXEC);
  struct io_uring_sqe one = poll_of(ends[0]);
  if (waits)
    put(fd, &p, &one, 1);
  else
    registers(fd, IORING_REGISTER_EVENTFD, &event, 1);
}

typedef struct Entry { /* struct io_uring_buf */
  uint64_t address;
  uint32_t size;
  uint16_t id, tail;
} Entry;

static Entry *give_buffers(int fd) {
  struct {
    uint64_t address;
    uint32_t entries;
    uint16_t group, flags;
    uint64_t reserved[3];
  } group = {.entries = 4, .group = 1};
  Entry *list = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check_call((void *)list != MAP_FAILED);
  group.address = (uint64_t)list;
  registers(fd, 22 /* IORING_REGISTER_PBUF_RING */, &group, 1);
  return list;
}

static void ring_of_given_buffers(void) {
  static char memory[64];
  struct io_uring_params p = {0};
  struct io_uring_sqe one = {.opcode = IORING_OP_PROVIDE_BUFFERS, .fd = 2, .addr = (uint64_t)memory, .len = 32, .buf_group = 1};
  int fd = ring(&p, 4);
  put(fd, &p, &one, 1);
}

static void ring_of_lost_buffers(void) {
  struct io_uring_params p = {0};
  check_call(munmap(give_buffers(ring(&p, 4)), PAGE) == 0);
}

static void ring_of_polled_buffers(void) {
  struct io_uring_params p = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 1};
  (void)give_buffers(ring(&p, 4));
}

/* The only request is in flight, and has chosen one already. */
static void ring_of_chosen_buffers(void) {
  static char memory[64];
  struct io_uring_params p = {0};
  int ends[2], fd = ring(&p, 4);
  Entry *list = give_buffers(fd);
  list[0] = (Entry){.address = (uint64_t)memory, .size = 32};
  list[1] = (Entry){.address = (uint64_t)memory + 32, .size = 32};
  list[0].tail = 2;
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 && write(ends[1], "part", 4) == 4);
  struct io_uring_sqe one = {.opcode = IORING_OP_RECV, .flags = IOSQE_BUFFER_SELECT, .ioprio = 2 /* IORING_RECV_MULTISHOT */, .fd = ends[0], .buf_group = 1};
  put(fd, &p, &one, 1);
}

static struct io_uring_params lent_params;
static int lent_ring, lent_ends[2];

static void borrow(void) {
  struct io_uring_sqe one = poll_of(lent_ends[0]);
  put(lent_ring, &lent_params, &one, 1);
  check_call(close(lent_ring) == 0);
}

/* Requests in flight that cannot be made again, and what goes with them. */
static void requests(void) {
  int ends[2];
  check_call(pipe2(ends, O_CLOEXEC) == 0 && pipe2(lent_ends, O_CLOEXEC) == 0);
  ring_linked(ends);
  ring_with_credentials(ends);
  ring_of_closed_file();
  ring_with_a_part();
  ring_with_closed_eventfd();
  ring_with_thread(true, ends);
  ring_with_thread(false, ends);
  ring_of_given_buffers();
  ring_of_lost_buffers();
  ring_of_polled_buffers();
  ring_of_chosen_buffers();
  lent_ring = ring(&lent_params, 4);
  child(borrow);
}

/* What concerns all rings of a process is in processes of its own. */
static void rings(void) {
  struct io_uring_params disabled = {.flags = IORING_SETUP_R_DISABLED}, personal = {0};
  child(registered_number);
  child(rings_of_one_thread);
  (void)ring(&disabled, 4);
  registers(ring(&personal, 4), IORING_REGISTER_PERSONALITY, NULL, 0);
  ring_restricted();
  ring_of_files(false);
  ring_of_files(true);
  ring_of_dead_thread();
}

/* Without room for them, until they are fetched. */
static void ring_overflowed(void) {
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 4};
  int fd = ring(&p, 4);
  char *words = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
  struct io_uring_sqe *sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
  check_call(words != MAP_FAILED && (void *)sqes != MAP_FAILED);
  for (uint32_t i = 0; i < 8; i++) {
    memset(&sqes[i % 4], 0, sizeof *sqes); /* IORING_OP_NOP */
    *(uint32_t *)(void *)(words + p.sq_off.array + (i % 4) * 4) = i % 4;
    __atomic_store_n((uint32_t *)(void *)(words + p.sq_off.tail), i + 1, __ATOMIC_RELEASE);
    check_call(syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0) == 1);
  }
}

static void ring_of_own_memory(void) {
  struct io_uring_params p = {.flags = 1u << 14 /* IORING_SETUP_NO_MMAP, since 6.5 */};
  char *memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  p.cq_off.resv2 = (uint64_t)memory; /* user_addr of the rings, and of the requests */
  p.sq_off.resv2 = (uint64_t)(memory + PAGE);
  (void)ring(&p, 4);
}

/* --- a code segment of its own --- */

enum { SEGMENT = 0, SELECTOR = SEGMENT << 3 | 7 };

static void *spin_in_segment(void *low) {
  __asm__ volatile("pushq %0\n\tpushq %1\n\tlretq" : : "r"((uint64_t)SELECTOR), "r"(low) : "memory");
  return NULL;
}

static void segment(void) {
  struct user_desc code = {
      .entry_number = SEGMENT, .limit = 0xfffff, .seg_32bit = 1, .contents = MODIFY_LDT_CONTENTS_CODE, .limit_in_pages = 1};
  char *low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  pthread_t thread;
  check_call(low != MAP_FAILED);
  memcpy(low, "\xf3\x90\xeb\xfc", 4); /* pause, and again */
  if (syscall(SYS_modify_ldt, 1, &code, sizeof code) != 0)
    subject_skip("no segments");
  check_call(pthread_create(&thread, NULL, spin_in_segment, low) == 0);
}

static char *huge_place;

static void huge_file(void) {
  huge_place = place("huge");
  check_call(mkdir(huge_place, 0700) == 0);
  if (mount("none", huge_place, "hugetlbfs", 0, NULL) < 0)
    subject_skip("no hugetlbfs");
  char *file = place("huge/file");
  int fd = kept(open(file, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  void *p = mmap(NULL, 2 << 20, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  check_call(p != MAP_FAILED && close(fd) == 0);
}

static void unmount_huge(void) {
  check_call(umount2(huge_place, MNT_DETACH) == 0);
}

static const RefusedCase cases[] = {
    {"objects", objects, NULL},
    {"devices", devices, NULL},
    {"uprobe", uprobe, NULL},
    {"mappings", mappings, NULL},
    {"rings", rings, NULL},
    {"requests", requests, NULL},
    {"ring-overflowed", ring_overflowed, NULL},
    {"ring-of-own-memory", ring_of_own_memory, NULL},
    {"segment", segment, NULL},
    {"huge-file", huge_file, unmount_huge},
    {0},
};

const RefusedTable kernel_cases = {subject_begin, cases};
