/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Mappings that nobody but the process, or nobody at all, could make again: the dump names each. */

#include "subject.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { PAGE = 4096, SIZE = 16 * PAGE };

static void *map(int flags, int fd) {
  void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0);
  check_call(p != MAP_FAILED);
  return p;
}

static void make_userfault(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  struct uffdio_api api = {.api = UFFD_API};
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
    subject_skip("no userfaultfd");
  struct uffdio_register range = {.range = {(uint64_t)map(MAP_PRIVATE | MAP_ANONYMOUS, -1), SIZE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  check_call(ioctl(fd, UFFDIO_REGISTER, &range) == 0);
}

static void make_secret(void) {
  int fd = (int)syscall(SYS_memfd_secret, 0);
  if (fd < 0)
    subject_skip("no memfd_secret");
  check_call(ftruncate(fd, SIZE) == 0);
  (void)map(MAP_SHARED, fd);
  check_call(close(fd) == 0);
}

static void open_secret(void) {
  if (syscall(SYS_memfd_secret, 0) < 0)
    subject_skip("no memfd_secret");
}

static void make_perf(void) {
  struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK};
  int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0)
    subject_skip("no perf events");
  check_call(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
  check_call(close(fd) == 0);
}

static void make_packet(void) {
  struct tpacket_req request = {.tp_block_size = SIZE, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = SIZE / 2048};
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0)
    subject_skip("no packet sockets");
  check_call(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0);
  (void)map(MAP_SHARED, fd);
  check_call(close(fd) == 0);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*make)(void);
  } cases[] = {{"userfault", make_userfault}, {"secret", make_secret}, {"secret-open", open_secret}, {"perf", make_perf}, {"packet", make_packet}};
  subject_begin(argc, argv);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (argc > 2 && strcmp(argv[2], cases[i].name) == 0)
      cases[i].make();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  return subject_pass();
}
