/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin built to the facts of CRIU's interface 0.2.0, with all fifteen hooks. */

#include "old-door.h"
#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>

extern void print_on_level(unsigned level, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int stage_of_init;

static int hook_init(int stage) {
  test_begin();
  stage_of_init = stage;
  test_note("init %d", stage);
  print_on_level(3, "hello from %s\n", "the test plugin");
  return test_answer("init", 0);
}

static void hook_exit(int stage, int ret) {
  test_note("exit %d %d", stage, ret);
}

static int dump_unix(int fd, int id) {
  char text[64];
  test_describe(fd, text);
  test_note("DUMP_UNIX_SK %d %s", id, text);
  int r = test_answer("DUMP_UNIX_SK", 0);
  return r ? r : old_dump_unix(fd, id);
}

static int restore_unix(int id) {
  test_note("RESTORE_UNIX_SK %d", id);
  int r = test_answer("RESTORE_UNIX_SK", 0);
  return r ? r : old_restore_unix(id);
}

static int dump_file(int fd, int id) {
  char link[64], path[32], text[64];
  test_describe(fd, text);
  test_note("DUMP_EXT_FILE %d %s", id, text);
  int r = test_answer("DUMP_EXT_FILE", 0);
  (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, link, sizeof link - 1);
  link[n < 0 ? 0 : n] = '\0';
  if (r)
    return r;
  return strcmp(link, "anon_inode:[perf_event]") == 0 ? old_save(id, "perf") : old_dump_file(fd, id);
}

static int perf_open(void) {
  struct perf_event_attr attr = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK, .disabled = 1};
  return (int)syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int restore_file(int id, bool *retry_needed) {
  static int tries;
  char text[128];
  test_note("RESTORE_EXT_FILE %d", id);
  int r = test_answer("RESTORE_EXT_FILE", 0);
  if (r)
    return r;
  r = old_load(id, text);
  if (r < 0)
    return r;
  if (strcmp(text, "perf") != 0 && tries++ == 0 && test_answer("retry", 0)) { /* after the others */
    *retry_needed = true;
    return -1;
  }
  return strcmp(text, "perf") == 0 ? perf_open() : old_restore_file(id);
}

static int dump_mount(char *mountpoint, int id) {
  test_note("DUMP_EXT_MOUNT %d %s", id, mountpoint);
  int r = test_answer("DUMP_EXT_MOUNT", 0);
  return r ? r : old_dump_mount(mountpoint, id);
}

static int restore_mount(int id, char *mountpoint, char *old_root, int *is_file) {
  test_note("RESTORE_EXT_MOUNT %d", id);
  int r = test_answer("RESTORE_EXT_MOUNT", 0);
  return r ? r : old_restore_mount(id, mountpoint, old_root);
}

static int dump_link(int index, int type, char *kind) {
  test_note_link("DUMP_EXT_LINK", index, type, kind);
  return test_answer("DUMP_EXT_LINK", -ENOTSUP);
}

static int handle_vma(int fd, const struct stat *st) {
  test_note("HANDLE_DEVICE_VMA %lx", (unsigned long)st->st_ino);
  return test_answer("HANDLE_DEVICE_VMA", 0);
}

static int update_vma(const char *path, uint64_t addr, uint64_t old_pgoff, uint64_t *new_pgoff, int *plugin_fd) {
  test_note("UPDATE_VMA_MAP %s %lx %lx", path, (unsigned long)addr, (unsigned long)old_pgoff);
  *new_pgoff = old_pgoff;
  *plugin_fd = perf_open();
  int r = test_answer("UPDATE_VMA_MAP", 0);
  return r ? r : *plugin_fd < 0 ? -errno : 1;
}

static int resume_late(int pid) {
  test_note("RESUME_DEVICES_LATE %d", pid);
  return test_answer("RESUME_DEVICES_LATE", 0);
}

static int pause_devices(int pid) {
  test_note("PAUSE_DEVICES %d", pid);
  return test_answer("PAUSE_DEVICES", 0);
}

static int checkpoint_devices(int pid) {
  test_note("CHECKPOINT_DEVICES %d", pid);
  return test_answer("CHECKPOINT_DEVICES", 0);
}

static int post_forking(void) {
  test_note("POST_FORKING");
  return test_answer("POST_FORKING", 0);
}

static int restore_init(void) {
  test_note("RESTORE_INIT");
  return test_answer("RESTORE_INIT", 0);
}

static int dump_late(int id) {
  test_note("DUMP_DEVICES_LATE %d", id);
  return test_answer("DUMP_DEVICES_LATE", 0);
}

struct criu_descriptor {
  const char *name;
  int (*init)(int stage);
  void (*exit)(int stage, int ret);
  unsigned version, max_hooks;
  void *hooks[15];
};

extern struct criu_descriptor CR_PLUGIN_DESC;
__attribute__((visibility("default"))) struct criu_descriptor CR_PLUGIN_DESC = {
    .name = "criu_test",
    .init = hook_init,
    .exit = hook_exit,
#ifdef OTHER_VERSION
    .version = (0 << 16) + (3 << 8),
#else
    .version = (0 << 16) + (2 << 8) + 0,
#endif
    .max_hooks = 15,
    .hooks = {dump_unix, restore_unix, dump_file, restore_file, dump_mount, restore_mount, dump_link, handle_vma,
        update_vma, resume_late, pause_devices, checkpoint_devices, post_forking, restore_init, dump_late},
};
