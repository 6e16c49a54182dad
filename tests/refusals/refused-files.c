/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files, pipes, queues, locks, watches and what waits for them: another process has them, or their names are gone. */

#include "refused.h"
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int make_file(const char *name) {
  return kept(open(place(name), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
}

static char *make_directory(const char *name) {
  char *path = place(name);
  check_call(mkdir(path, 0700) == 0);
  return path;
}

/* --- shared with a process outside --- */

static char queue_name[64];
static int segment = -1;

static void attach(void) {
  check_call(shmat(segment, NULL, 0) != (void *)-1);
}

static void shared(void) {
  int ends[2], fifo[2], waited[2];
  check_call(pipe2(ends, O_CLOEXEC) == 0 && pipe2(waited, O_CLOEXEC) == 0 && mkfifo(place("fifo"), 0600) == 0);
  fifo[0] = kept(open(place("fifo"), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  fifo[1] = kept(open(place("fifo"), O_WRONLY | O_CLOEXEC));
  (void)snprintf(queue_name, sizeof queue_name, "/refused-%d", (int)getpid());
  mqd_t queue = mq_open(queue_name, O_CREAT | O_RDWR, 0600, NULL);
  check_call(queue >= 0);
  segment = shmget(IPC_PRIVATE, 4096, 0600);
  check_call(segment >= 0 && shmat(segment, NULL, 0) != (void *)-1);
  outside(attach, (int[]){ends[1], fifo[1], (int)queue, waited[0]}, 4);
  check_call(close(ends[1]) == 0 && close(fifo[1]) == 0);
  struct epoll_event event = {.events = EPOLLIN};
  int epoll = kept(epoll_create1(EPOLL_CLOEXEC));
  check_call(epoll_ctl(epoll, EPOLL_CTL_ADD, waited[0], &event) == 0 && close(waited[0]) == 0 && close(waited[1]) == 0);
}

static void leave_shared(void) {
  check_call(mq_unlink(queue_name) == 0 && shmctl(segment, IPC_RMID, NULL) == 0);
}

/* --- names --- */

static char *covered, *overlay;

/* Files of it can neither be found by a handle nor by a name that is gone. */
static void mount_overlay(void) {
  char *options = NULL;
  overlay = make_directory("overlay");
  check_call(mount("none", overlay, "tmpfs", 0, NULL) == 0);
  const char *const parts[] = {"overlay/lower", "overlay/upper", "overlay/work", "overlay/all"};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    (void)make_directory(parts[i]);
  check_call(asprintf(&options, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,index=off,nfs_export=off", overlay,
                 overlay, overlay) > 0);
  check_call(mount("none", place("overlay/all"), "overlay", 0, options) == 0);
}

static void names(void) {
  covered = make_directory("covered");
  (void)kept(open(covered, O_DIRECTORY | O_CLOEXEC));
  check_call(mount("none", covered, "tmpfs", 0, NULL) == 0);
  mount_overlay();
  (void)make_file("overlay/all/first");
  check_call(
      link(place("overlay/all/first"), place("overlay/all/second")) == 0 && unlink(place("overlay/all/first")) == 0);
  check_call(inotify_add_watch(kept(inotify_init1(IN_CLOEXEC)), place("overlay/all/second"), IN_MODIFY) > 0);
  (void)kept(open("/proc/self/ns/net", O_PATH | O_CLOEXEC));
}

static void unmount_names(void) {
  check_call(umount2(covered, MNT_DETACH) == 0 && umount2(place("overlay/all"), MNT_DETACH) == 0 &&
             umount2(overlay, MNT_DETACH) == 0);
}

/* --- watches --- */

static char *nowhere;

static void watches(void) {
  int notes = kept(inotify_init1(IN_CLOEXEC));
  nowhere = make_directory("nowhere");
  check_call(close(make_file("watched")) == 0 && inotify_add_watch(notes, place("watched"), IN_MODIFY) > 0);
  int other = kept(open(place("watched"), O_RDONLY | O_CLOEXEC)); /* so that the watch stays */
  outside(NULL, &other, 1);
  check_call(close(other) == 0 && unlink(place("watched")) == 0);
  int marks = fanotify_init(FAN_CLOEXEC, O_RDONLY);
  if (marks < 0)
    return;
  check_call(mount("none", nowhere, "tmpfs", 0, NULL) == 0 &&
             fanotify_mark(marks, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, nowhere) == 0);
  int held = kept(open(nowhere, O_PATH | O_CLOEXEC));
  outside(NULL, &held, 1); /* so that the file system stays */
  check_call(close(held) == 0 && umount2(nowhere, MNT_DETACH) == 0);
}

/* --- locks --- */

static void locks(void) {
  int pair[2], fd = make_file("mapped"), way = make_file("on-its-way");
  check_call(flock(fd, LOCK_EX) == 0 && ftruncate(fd, 4096) == 0);
  check_call(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED && close(fd) == 0);
  check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0 && flock(way, LOCK_EX) == 0);
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof way)];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof way)}};
  struct iovec iov = {(char *)"x", 1};
  const struct msghdr message = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  memcpy(CMSG_DATA(&control.header), &way, sizeof way);
  check_call(sendmsg(pair[0], &message, 0) == 1 && close(way) == 0);
}

static void open_leased(void) {
  (void)open(place("leased"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static void lease(void) {
  check_call(signal(SIGIO, SIG_IGN) != SIG_ERR);
  int fd = make_file("leased");
  check_call(fcntl(fd, F_SETLEASE, F_WRLCK) == 0);
  outside(open_leased, NULL, 0);
}

/* --- a thread's own table --- */

static void *lock_apart(void *ready) {
  check_call(unshare(CLONE_FILES) == 0);
  check_call(flock(make_file("apart"), LOCK_EX) == 0 && dup2(0, 90) == 90);
  *(volatile bool *)ready = true;
  for (;;)
    (void)pause();
  return NULL;
}

/* With a lock that the process has not, and a number above the limit. */
static void table(void) {
  static volatile bool ready;
  const struct rlimit limit = {50, 4096};
  pthread_t thread;
  if (!subject_has_thread_pidfds())
    subject_skip("the kernel has no pidfds of threads");
  check_call(pthread_create(&thread, NULL, lock_apart, (void *)&ready) == 0);
  while (!ready)
    subject_tick();
  check_call(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* --- a thread's pidfd that several have --- */

static void *wait_for_ever(void *data) {
  *(pid_t *)data = gettid();
  for (;;)
    (void)pause();
  return NULL;
}

static void nothing(void) {}

static void thread_pidfd(void) {
  static volatile pid_t tid;
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, wait_for_ever, (void *)&tid) == 0);
  while (!tid)
    subject_tick();
  if (syscall(SYS_pidfd_open, tid, PIDFD_THREAD) < 0)
    subject_skip("no pidfds of threads");
  child(nothing);
}

static const RefusedCase cases[] = {
    {"shared", shared, leave_shared},
    {"names", names, unmount_names},
    {"watches", watches, NULL},
    {"locks", locks, NULL},
    {"lease", lease, NULL},
    {"table", table, NULL},
    {"thread-pidfd", thread_pidfd, NULL},
    {0},
};

const RefusedTable file_cases = {subject_begin, cases};
