/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* fanotify groups. argv[2]:
 *   marks        on a file, one that was renamed, one that was deleted and is still open, a directory, a mount, a file system
 *   ids          a group that reports names instead of descriptors
 *   pending, permission   refused */

#include "subject.h"
#include <sys/fanotify.h>
#include <sys/stat.h>

#ifndef FAN_REPORT_DFID_NAME
#define FAN_REPORT_DFID_NAME 0x00000c00
#endif

static char directory[3500];

static void path_in(char *path, const char *name) {
  (void)snprintf(path, 4096, "%s/%s", directory, name);
}

static int file_in(const char *name) {
  char path[4096];
  path_in(path, name);
  int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0700);
  check_call(fd >= 0);
  return fd;
}

static int group_new(unsigned flags) {
  int group = fanotify_init(flags | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC);
  if (group < 0 && (errno == ENOSYS || errno == EPERM || errno == EINVAL))
    subject_skip("this kernel has no such fanotify, or does not allow it");
  check_call(group >= 0);
  return group;
}

static void mark(int group, unsigned flags, uint64_t mask, const char *name) {
  char path[4096];
  path_in(path, name);
  check_call(fanotify_mark(group, FAN_MARK_ADD | flags, mask, AT_FDCWD, *name == '/' ? name : path) == 0);
}

static void wait_for_check(void) {
  subject_ready();
  while (!subject_checking())
    subject_tick();
}

/* One event, of this kind, on the file behind @file. */
static void expect(int group, uint64_t mask, int file) {
  struct fanotify_event_metadata e;
  struct stat seen, wanted;
  ssize_t n = read(group, &e, sizeof e);
  for (int i = 0; n < 0 && i < SUBJECT_PATIENCE; i++, n = read(group, &e, sizeof e))
    subject_tick();
  check(n == sizeof e && e.mask == mask, "no event %x, but %x (%d)", (unsigned)mask, n > 0 ? (unsigned)e.mask : 0, (int)n);
  check_call(fstat(e.fd, &seen) == 0 && fstat(file, &wanted) == 0);
  check(seen.st_ino == wanted.st_ino && e.pid == getpid(), "the event is about another file, or by pid %d", e.pid);
  check_call(close(e.fd) == 0);
}

static void expect_nothing(int group) {
  struct fanotify_event_metadata e;
  check(read(group, &e, sizeof e) < 0 && errno == EAGAIN, "an event of nothing");
}

static void marks(void) {
  char from[4096], to[4096];
  int plain = file_in("plain"), renamed = file_in("renamed"), gone = file_in("gone");
  int group = group_new(FAN_CLASS_NOTIF), shm = group_new(FAN_CLASS_NOTIF);
  mark(group, 0, FAN_MODIFY, "plain");
  mark(group, 0, FAN_MODIFY, "renamed");
  mark(group, 0, FAN_MODIFY, "gone");
  mark(group, 0, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, "");
  mark(group, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_CLOSE_WRITE, "renamed");
  path_in(from, "renamed");
  path_in(to, "other name");
  check_call(rename(from, to) == 0);
  path_in(from, "gone");
  check_call(unlink(from) == 0);
  mark(shm, FAN_MARK_MOUNT, FAN_OPEN_EXEC, "/dev/shm");
  mark(shm, FAN_MARK_FILESYSTEM, FAN_OPEN_EXEC, "/dev/shm");
  wait_for_check();
  expect_nothing(group);
  check_call(write(plain, "x", 1) == 1);
  expect(group, FAN_MODIFY, plain);
  check_call(write(renamed, "x", 1) == 1);
  expect(group, FAN_MODIFY, renamed);
  check_call(write(gone, "x", 1) == 1);
  expect(group, FAN_MODIFY, gone);
  int opened = open(to, O_WRONLY | O_CLOEXEC); /* ignored */
  check_call(opened >= 0 && close(opened) == 0);
  int made = file_in("new"), again = file_in("new");
  check_call(close(again) == 0);
  expect(group, FAN_CLOSE_WRITE, made);
  expect_nothing(group);
}

static void ids(void) {
  int group = group_new(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME);
  mark(group, 0, FAN_CREATE | FAN_ONDIR, "");
  wait_for_check();
  int made = file_in("new");
  _Alignas(8) char buffer[4096];
  ssize_t n = read(group, buffer, sizeof buffer);
  const struct fanotify_event_metadata *e = (const struct fanotify_event_metadata *)(const void *)buffer;
  check(made >= 0 && n > (ssize_t)sizeof *e && e->mask == FAN_CREATE && e->fd == FAN_NOFD, "no event of the new file");
  check(memmem(buffer, (size_t)n, "new", 4) != NULL, "the event has no name");
}

static void refused(unsigned class, uint64_t mask) {
  int file = file_in("plain"), group = group_new(class);
  mark(group, 0, mask, "plain");
  if (mask == FAN_MODIFY)
    check_call(write(file, "x", 1) == 1);
  wait_for_check();
  if (mask == FAN_MODIFY)
    expect(group, FAN_MODIFY, file);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "marks";
  (void)snprintf(directory, sizeof directory, "%s.dir", subject_base);
  check_call(mkdir(directory, 0700) == 0);
  if (strcmp(what, "marks") == 0)
    marks();
  else if (strcmp(what, "ids") == 0)
    ids();
  else if (strcmp(what, "pending") == 0)
    refused(FAN_CLASS_NOTIF, FAN_MODIFY);
  else
    refused(FAN_CLASS_CONTENT, FAN_OPEN_PERM);
  return subject_pass();
}
