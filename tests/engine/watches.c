/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* inotify watches on a directory and a file, waited for by epoll in a thread, that report what happens after the restore.
 * Others in an instance of its own: on a file that was renamed, on one that was deleted and is still open, for one event
 * (IN_ONESHOT), for files that have their names (IN_EXCL_UNLINK). */

#include "subject.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

static int watcher;
static _Atomic unsigned created, modified;

static void *wait_for_events(void *data) {
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  check_call(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, watcher, &event) == 0);
  for (;;) {
    _Alignas(struct inotify_event) char buffer[4096];
    if (epoll_wait(epoll, &event, 1, -1) != 1)
      continue;
    ssize_t n = read(watcher, buffer, sizeof buffer);
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
      const struct inotify_event *e = (const struct inotify_event *)(const void *)(buffer + at);
      created += e->wd == 1 && (e->mask & IN_CREATE) && e->len && strcmp(e->name, "new") == 0;
      modified += e->wd == 3 && (e->mask & IN_MODIFY) && !e->len;
      at += (ssize_t)sizeof *e + (ssize_t)e->len;
    }
  }
  return data;
}

static int open_in(const char *directory, const char *name) {
  char path[4300];
  (void)snprintf(path, sizeof path, "%s/%s", directory, name);
  return open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
}

/* It was open before the instance was, and hears of everything that is done to it: the engine's reading of it comes later. */
static int early, all;

static void drain(int fd) {
  char buffer[4096];
  while (read(fd, buffer, sizeof buffer) > 0)
    ;
}

static void watch_all(const char *directory) {
  char path[4400];
  (void)snprintf(path, sizeof path, "%s/early", directory);
  all = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  check_call(all > early && inotify_add_watch(all, path, IN_ALL_EVENTS) == 1 && unlink(path) == 0);
  drain(all);
}

static int more, renamed, gone, once;
static char child[4400];

static void more_watches(const char *directory) {
  char path[4400], other[4400];
  more = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  renamed = open_in(directory, "renamed");
  gone = open_in(directory, "gone");
  once = open_in(directory, "once");
  (void)snprintf(path, sizeof path, "%s/renamed", directory);
  (void)snprintf(other, sizeof other, "%s/new name", directory);
  check_call(inotify_add_watch(more, path, IN_MODIFY) == 1 && rename(path, other) == 0);
  (void)snprintf(path, sizeof path, "%s/gone", directory);
  check_call(inotify_add_watch(more, path, IN_MODIFY) == 2 && unlink(path) == 0);
  (void)snprintf(path, sizeof path, "%s/once", directory);
  check_call(inotify_add_watch(more, path, IN_MODIFY | IN_ONESHOT) == 3);
  (void)snprintf(child, sizeof child, "%s/sub", directory);
  check_call(mkdir(child, 0700) == 0 && inotify_add_watch(more, child, IN_MODIFY | IN_EXCL_UNLINK) == 4);
}

static void expect(int wd, uint32_t mask) {
  _Alignas(struct inotify_event) char buffer[sizeof(struct inotify_event) + 256];
  const struct inotify_event *e = (const struct inotify_event *)(const void *)buffer;
  ssize_t n = -1;
  for (int i = 0; n < 0 && i < SUBJECT_PATIENCE; i++) {
    n = read(more, buffer, wd == 4 ? sizeof buffer : sizeof *e); /* one event */
    if (n < 0)
      subject_tick();
  }
  check(n > 0 && e->wd == wd && e->mask == mask, "watch %d: event %x, expected %x of %d", n > 0 ? e->wd : -1, n > 0 ? e->mask : 0, mask, wd);
}

static void check_more(void) {
  check_call(write(renamed, "x", 1) == 1);
  expect(1, IN_MODIFY);
  check_call(write(gone, "x", 1) == 1);
  expect(2, IN_MODIFY);
  check_call(write(once, "x", 1) == 1);
  expect(3, IN_MODIFY);
  expect(3, IN_IGNORED);
  int file = open_in(child, "file");
  check_call(file >= 0 && write(file, "x", 1) == 1);
  expect(4, IN_MODIFY);
  char path[4500], byte[256];
  (void)snprintf(path, sizeof path, "%s/file", child);
  check_call(unlink(path) == 0 && write(file, "x", 1) == 1 && write(once, "x", 1) == 1);
  check(read(more, byte, sizeof byte) < 0 && errno == EAGAIN, "an event of a file without a name, or a second one of one");
}

int main(int argc, char **argv) {
  char directory[4200], path[4300];
  pthread_t thread;
  subject_begin(argc, argv);
  (void)snprintf(directory, sizeof directory, "%s.dir", subject_base);
  check_call(mkdir(directory, 0700) == 0);
  int file = open_in(directory, "file");
  (void)snprintf(path, sizeof path, "%s/file", directory);
  early = open_in(directory, "early");
  check_call(early >= 0 && write(early, "early", 5) == 5);
  watcher = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  check_call(file >= 0 && watcher >= 0);
  check_call(inotify_add_watch(watcher, directory, IN_CREATE) == 1 && inotify_add_watch(watcher, "/", IN_MOVE_SELF) == 2);
  check_call(inotify_rm_watch(watcher, 2) == 0 && inotify_add_watch(watcher, path, IN_MODIFY) == 3);
  more_watches(directory);
  watch_all(directory);
  created = modified = 0;
  check_call(pthread_create(&thread, NULL, wait_for_events, NULL) == 0);
  subject_tick();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(!created && !modified, "there were events that nobody caused");
  int made = open_in(directory, "new");
  check_call(made >= 0 && write(file, "x", 1) == 1);
  check(subject_await(created && modified) && created == 1 && modified == 1, "%u files made, %u modified", created, modified);
  check_more();
  char event[4096];
  check(read(all, event, sizeof event) < 0 && errno == EAGAIN, "something happened to the deleted file");
  check_call(write(early, "x", 1) == 1);
  check(read(all, event, sizeof event) > 0, "a write was not seen");
  return subject_pass();
}
