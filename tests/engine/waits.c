/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Threads that wait inside system calls for something that comes only after the restore: of every kind that can be interrupted
 * and begun again, those among them that the kernel does not begin again by itself when they were stopped (signal(7)). None
 * may end early, fail with EINTR, or be done twice. syscalls.c has those that end by a time-out. */

#include "subject.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define LONG_SEC 600

/* A wait begins, and is over when its event has come; `let` makes that happen. */
typedef struct Wait {
  const char *name;
  const char *group;
  void (*set_up)(void);
  void (*run)(void);
  void (*let)(void);
  pthread_t thread;
  volatile bool begun, done;
} Wait;

static volatile bool released;
static volatile int *gate; /* of the children */
static int full_pipe[2], empty[2], full[2], timed[2], timed_full[2], mmsg[2], quiet[2], listener, accepter, master, lock_holder, ofd_holder;
static int pi_word, waitv_word, sem_id = -1, sem_timed_id = -1, msg_id = -1, full_msg_id = -1;
static mqd_t queue;
static __thread char path[4096];
static pid_t child, lock_child;

static const char *file(const char *suffix) {
  (void)snprintf(path, sizeof path, "%s.%s", subject_base, suffix);
  return path;
}

static void fill(int fd) {
  char bytes[4096] = {0};
  int flags = fcntl(fd, F_GETFL);
  check_call(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
  while (write(fd, bytes, sizeof bytes) > 0)
    ;
  while (write(fd, bytes, 1) > 0)
    ;
  check_call(fcntl(fd, F_SETFL, flags) == 0);
}

static void drain(int fd) {
  char bytes[4096];
  check_call(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
  while (read(fd, bytes, sizeof bytes) > 0)
    ;
}

static void set_timeout(int fd, int which) {
  struct timeval tv = {.tv_sec = LONG_SEC};
  check_call(setsockopt(fd, SOL_SOCKET, which, &tv, sizeof tv) == 0);
}

/* --- pipes, sockets, terminals --- */

static void set_up_full_pipe(void) {
  check_call(pipe(full_pipe) == 0);
  fill(full_pipe[1]);
}
static void run_write(void) {
  check_call(write(full_pipe[1], "y", 1) == 1);
}
static void let_write(void) {
  drain(full_pipe[0]);
}

static void set_up_empty(void) {
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, empty) == 0);
}
static void run_recv(void) {
  char byte = 0;
  check_call(recv(empty[0], &byte, 1, MSG_WAITALL) == 1);
  check(byte == 'e', "recv got %d", byte);
}
static void let_recv(void) {
  check_call(send(empty[1], "e", 1, 0) == 1);
}

static void set_up_timed(void) {
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, timed) == 0);
  set_timeout(timed[0], SO_RCVTIMEO);
}
static void run_recvmsg_timed(void) {
  char byte = 0;
  struct iovec iov = {&byte, 1};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  check_call(recvmsg(timed[0], &message, 0) == 1);
  check(byte == 't', "recvmsg got %d", byte);
}
static void let_recvmsg_timed(void) {
  check_call(send(timed[1], "t", 1, 0) == 1);
}

static void set_up_mmsg(void) {
  check_call(socketpair(AF_UNIX, SOCK_DGRAM, 0, mmsg) == 0);
  set_timeout(mmsg[0], SO_RCVTIMEO);
}
static void run_recvmmsg(void) {
  char byte = 0;
  struct iovec iov = {&byte, 1};
  struct mmsghdr message = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
  check_call(syscall(SYS_recvmmsg, mmsg[0], &message, 1, 0, NULL) == 1);
  check(byte == 'm', "recvmmsg got %d", byte);
}
static void let_recvmmsg(void) {
  check_call(send(mmsg[1], "m", 1, 0) == 1);
}

static void set_up_full(void) {
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, full) == 0);
  fill(full[0]);
}
static void run_sendmsg(void) {
  char byte = 's';
  struct iovec iov = {&byte, 1};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
  check_call(sendmsg(full[0], &message, 0) == 1);
}
static void let_sendmsg(void) {
  drain(full[1]);
}

static void set_up_timed_full(void) {
  check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, timed_full) == 0);
  set_timeout(timed_full[0], SO_SNDTIMEO);
  fill(timed_full[0]);
}
static void run_write_timed(void) {
  check_call(write(timed_full[0], "w", 1) == 1);
}
static void let_write_timed(void) {
  drain(timed_full[1]);
}

static struct sockaddr_un address_of(const char *name) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  (void)snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "checkpointd-waits-%d-%s", (int)getpid(), name);
  return a;
}
static int listen_at(const char *name, int backlog) {
  struct sockaddr_un a = address_of(name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, backlog) == 0);
  return fd;
}
static int connect_to(const char *name) {
  struct sockaddr_un a = address_of(name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
  return fd;
}

static void set_up_accept(void) {
  accepter = listen_at("accept", 4);
  set_timeout(accepter, SO_RCVTIMEO);
}
static void run_accept(void) {
  int fd = accept4(accepter, NULL, NULL, SOCK_CLOEXEC);
  check_call(fd >= 0 && close(fd) == 0);
}
static void let_accept(void) {
  (void)close(connect_to("accept"));
}

static void set_up_connect(void) {
  listener = listen_at("connect", 0);
  (void)connect_to("connect"); /* the backlog is full */
}
static void run_connect(void) {
  (void)close(connect_to("connect"));
}
static void let_connect(void) {
  for (int i = 0; i < 2; i++) {
    int fd = accept(listener, NULL, NULL);
    check_call(fd >= 0);
  }
}

static void set_up_tty(void) {
  master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  check_call(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
}
static void run_tty(void) {
  char line[8] = "";
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  check_call(slave >= 0 && read(slave, line, sizeof line) == 3);
  check(!strcmp(line, "ok\n"), "the terminal says %s", line);
}
static void let_tty(void) {
  check_call(write(master, "ok\n", 3) == 3);
}

/* --- futexes --- */

static void set_up_pi(void) {
  pi_word = (int)syscall(SYS_gettid);
}
static void run_pi(void) {
  check_call(syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
  check_call(syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
}
static void let_pi(void) {
  check_call(syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0);
}

static void run_waitv(void) {
  struct {
    uint64_t value, address;
    uint32_t flags, reserved;
  } waiter = {0, (uintptr_t)&waitv_word, 2 | 128 /* 32 bits, private */, 0};
  struct timespec end = {.tv_sec = (time_t)(subject_nsec(CLOCK_MONOTONIC) / 1000000000U) + LONG_SEC};
  long n = syscall(SYS_futex_waitv, &waiter, 1, 0, &end, CLOCK_MONOTONIC);
  check(n == 0, "futex_waitv: %ld %s", n, strerror(errno));
}
static void let_waitv(void) {
  check_call(syscall(SYS_futex, &waitv_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 1);
}

/* --- signals, children --- */

static void run_sigwait(void) {
  sigset_t set;
  siginfo_t info;
  (void)sigemptyset(&set);
  (void)sigaddset(&set, SIGRTMIN + 1);
  check_call(sigwaitinfo(&set, &info) == SIGRTMIN + 1);
}
static void let_sigwait(void) {
  check_call(kill(getpid(), SIGRTMIN + 1) == 0);
}

static void set_up_waitid(void) {
  child = fork();
  if (child)
    return;
  while (!*gate && getppid() != 1)
    subject_tick();
  _exit(21);
}
static void run_waitid(void) {
  siginfo_t info = {0};
  check_call(waitid(P_PID, (id_t)child, &info, WEXITED) == 0);
  check(info.si_pid == child && info.si_status == 21, "waitid: %d, %d", (int)info.si_pid, info.si_status);
}

/* --- event polls --- */

static void run_epoll_pwait2(void) {
  struct epoll_event event = {.events = EPOLLIN};
  int epfd = epoll_create1(EPOLL_CLOEXEC);
  check_call(epfd >= 0 && epoll_ctl(epfd, EPOLL_CTL_ADD, quiet[0], &event) == 0);
  struct timespec end = {.tv_sec = LONG_SEC};
  long n = syscall(SYS_epoll_pwait2, epfd, &event, 1, &end, NULL, 0);
  check(n == 1, "epoll_pwait2: %ld %s", n, strerror(errno));
}
static void run_ppoll(void) {
  struct pollfd p = {.fd = quiet[0], .events = POLLIN};
  struct timespec end = {.tv_sec = LONG_SEC};
  sigset_t all;
  (void)sigfillset(&all);
  check_call(ppoll(&p, 1, &end, &all) == 1);
}
static void set_up_quiet(void) {
  check_call(pipe(quiet) == 0);
}
static void let_quiet(void) {
  check_call(write(quiet[1], "q", 1) == 1);
}

/* --- file locks: another process has them --- */

static void set_up_locks(void) {
  int fd = open(file("flock"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  lock_holder = open(file("flock"), O_RDWR | O_CLOEXEC);
  check_call(fd >= 0 && lock_holder >= 0 && flock(lock_holder, LOCK_EX) == 0 && close(fd) == 0);
  ofd_holder = open(file("ofd"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  struct flock lock = {.l_type = F_WRLCK};
  check_call(fcntl(ofd_holder, F_OFD_SETLK, &lock) == 0);
  int ready[2];
  check_call(pipe(ready) == 0);
  lock_child = fork();
  if (!lock_child) {
    fd = open(file("posix"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    check_call(fcntl(fd, F_SETLK, &lock) == 0 && close(ready[0]) == 0 && close(ready[1]) == 0);
    while (!*gate && getppid() != 1)
      subject_tick();
    _exit(0);
  }
  char byte;
  check_call(close(ready[1]) == 0 && read(ready[0], &byte, 1) == 0 && close(ready[0]) == 0);
}
static void run_flock(void) {
  int fd = open(file("flock"), O_RDWR | O_CLOEXEC);
  check_call(fd >= 0 && flock(fd, LOCK_EX) == 0 && flock(fd, LOCK_UN) == 0);
}
static void let_flock(void) {
  check_call(flock(lock_holder, LOCK_UN) == 0);
}
static void run_ofd(void) {
  struct flock lock = {.l_type = F_WRLCK};
  int fd = open(file("ofd"), O_RDWR | O_CLOEXEC);
  check_call(fd >= 0 && fcntl(fd, F_OFD_SETLKW, &lock) == 0);
}
static void let_ofd(void) {
  struct flock lock = {.l_type = F_UNLCK};
  check_call(fcntl(ofd_holder, F_OFD_SETLK, &lock) == 0);
}
static void run_posix(void) {
  struct flock lock = {.l_type = F_WRLCK};
  int fd = open(file("posix"), O_RDWR | O_CLOEXEC);
  check_call(fd >= 0 && fcntl(fd, F_SETLKW, &lock) == 0);
}
static void let_posix(void) {
  check_call(waitpid(lock_child, NULL, 0) == lock_child);
}

/* --- FIFOs that nobody else has open --- */

static void set_up_fifos(void) {
  check_call(mkfifo(file("fifo-r"), 0600) == 0 && mkfifo(file("fifo-w"), 0600) == 0);
}
static void run_open_read(void) {
  int fd = open(file("fifo-r"), O_RDONLY | O_CLOEXEC);
  check_call(fd >= 0 && close(fd) == 0);
}
static void let_open_read(void) {
  int fd = open(file("fifo-r"), O_WRONLY | O_CLOEXEC);
  check_call(fd >= 0);
}
static void run_open_write(void) {
  int fd = open(file("fifo-w"), O_WRONLY | O_CLOEXEC);
  check_call(fd >= 0);
}
static void let_open_write(void) {
  int fd = open(file("fifo-w"), O_RDONLY | O_CLOEXEC);
  check_call(fd >= 0);
}

/* --- System V IPC and message queues --- */

static void set_up_semop(void) {
  sem_id = semget(IPC_PRIVATE, 1, 0600);
  check_call(sem_id >= 0);
}
static void run_semop(void) {
  struct sembuf down = {.sem_op = -1};
  check_call(semop(sem_id, &down, 1) == 0);
}
static void let_semop(void) {
  struct sembuf up = {.sem_op = 1};
  check_call(semop(sem_id, &up, 1) == 0);
}
static void set_up_semtimedop(void) {
  sem_timed_id = semget(IPC_PRIVATE, 1, 0600);
  check_call(sem_timed_id >= 0);
}
static void run_semtimedop(void) {
  struct sembuf down = {.sem_op = -1};
  struct timespec end = {.tv_sec = LONG_SEC};
  check_call(semtimedop(sem_timed_id, &down, 1, &end) == 0);
}
static void let_semtimedop(void) {
  struct sembuf up = {.sem_op = 1};
  check_call(semop(sem_timed_id, &up, 1) == 0);
}
struct letter {
  long type;
  char text[512];
};
static void set_up_msgrcv(void) {
  msg_id = msgget(IPC_PRIVATE, 0600);
  check_call(msg_id >= 0);
}
static void run_msgrcv(void) {
  struct letter l = {0};
  check_call(msgrcv(msg_id, &l, 1, 5, 0) == 1);
  check(l.text[0] == 'r', "msgrcv got %d", l.text[0]);
}
static void let_msgrcv(void) {
  struct letter l = {5, "r"};
  check_call(msgsnd(msg_id, &l, 1, 0) == 0);
}
static void set_up_msgsnd(void) {
  struct letter l = {1, ""};
  full_msg_id = msgget(IPC_PRIVATE, 0600);
  check_call(full_msg_id >= 0);
  while (msgsnd(full_msg_id, &l, sizeof l.text, IPC_NOWAIT) == 0)
    ;
}
static void run_msgsnd(void) {
  struct letter l = {2, ""};
  check_call(msgsnd(full_msg_id, &l, sizeof l.text, 0) == 0);
}
static void let_msgsnd(void) {
  struct letter l;
  while (msgrcv(full_msg_id, &l, sizeof l.text, 1, IPC_NOWAIT) > 0)
    ;
}

static void set_up_mq(void) {
  struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
  char name[64];
  (void)snprintf(name, sizeof name, "/checkpointd-waits-%d", (int)getpid());
  queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
  check_call(queue >= 0 && mq_unlink(name) == 0);
}
static void run_mq(void) {
  struct timespec end = {.tv_sec = (time_t)(subject_nsec(CLOCK_REALTIME) / 1000000000U) + LONG_SEC};
  char text[8];
  check_call(mq_timedreceive(queue, text, sizeof text, NULL, &end) == 2);
}
static void let_mq(void) {
  check_call(mq_send(queue, "mq", 2, 0) == 0);
}

static Wait waits[] = {{"write to a full pipe", "", set_up_full_pipe, run_write, let_write, 0, 0, 0},
    {"recv", "", set_up_empty, run_recv, let_recv, 0, 0, 0},
    {"recvmsg with SO_RCVTIMEO", "", set_up_timed, run_recvmsg_timed, let_recvmsg_timed, 0, 0, 0},
    {"recvmmsg with SO_RCVTIMEO", "", set_up_mmsg, run_recvmmsg, let_recvmmsg, 0, 0, 0},
    {"sendmsg to a full socket", "", set_up_full, run_sendmsg, let_sendmsg, 0, 0, 0},
    {"write with SO_SNDTIMEO", "", set_up_timed_full, run_write_timed, let_write_timed, 0, 0, 0},
    {"accept with SO_RCVTIMEO", "", set_up_accept, run_accept, let_accept, 0, 0, 0},
    {"connect to a full listener", "connect", set_up_connect, run_connect, let_connect, 0, 0, 0},
    {"read of a terminal", "", set_up_tty, run_tty, let_tty, 0, 0, 0}, {"futex lock_pi", "", set_up_pi, run_pi, let_pi, 0, 0, 0},
    {"futex_waitv", "", NULL, run_waitv, let_waitv, 0, 0, 0}, {"rt_sigtimedwait", "", NULL, run_sigwait, let_sigwait, 0, 0, 0},
    {"waitid", "", set_up_waitid, run_waitid, NULL, 0, 0, 0},
    {"epoll_pwait2", "", set_up_quiet, run_epoll_pwait2, let_quiet, 0, 0, 0}, {"ppoll", "", NULL, run_ppoll, NULL, 0, 0, 0},
    {"flock", "locks", set_up_locks, run_flock, let_flock, 0, 0, 0}, {"F_OFD_SETLKW", "locks", NULL, run_ofd, let_ofd, 0, 0, 0},
    {"F_SETLKW", "locks", NULL, run_posix, let_posix, 0, 0, 0}, {"open of a FIFO", "fifos", set_up_fifos, run_open_read, let_open_read, 0, 0, 0},
    {"open of a FIFO for writing", "fifos", NULL, run_open_write, let_open_write, 0, 0, 0},
    {"semop", "sysv", set_up_semop, run_semop, let_semop, 0, 0, 0},
    {"semtimedop", "sysv", set_up_semtimedop, run_semtimedop, let_semtimedop, 0, 0, 0},
    {"msgrcv", "sysv", set_up_msgrcv, run_msgrcv, let_msgrcv, 0, 0, 0}, {"msgsnd", "sysv", set_up_msgsnd, run_msgsnd, let_msgsnd, 0, 0, 0},
    {"mq_timedreceive", "mq", set_up_mq, run_mq, let_mq, 0, 0, 0}};
enum { N_WAITS = sizeof waits / sizeof waits[0] };

/* What fills a socket's buffer is a matter of how it came there: there may be room for more afterwards. */
static void *run_wait(void *data) {
  Wait *w = data;
  w->begun = true;
  errno = 0;
  w->run();
  while (!released && (w->let == let_sendmsg || w->let == let_write_timed))
    subject_tick();
  check(released, "%s has ended before its event", w->name);
  w->done = true;
  return NULL;
}

static void remove_ipc(void) {
  if (sem_id >= 0)
    (void)semctl(sem_id, 0, IPC_RMID);
  if (sem_timed_id >= 0)
    (void)semctl(sem_timed_id, 0, IPC_RMID);
  if (msg_id >= 0)
    (void)msgctl(msg_id, IPC_RMID, NULL);
  if (full_msg_id >= 0)
    (void)msgctl(full_msg_id, IPC_RMID, NULL);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *group = argc > 2 && strcmp(argv[2], "crowd") != 0 ? argv[2] : "";
  sigset_t all;
  (void)sigfillset(&all);
  check_call(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
  if (argc > 2 && *group == '\0')
    subject_crowd(80);
  gate = mmap(NULL, sizeof *gate, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(gate != MAP_FAILED);
  for (int i = 0; i < N_WAITS; i++)
    if (!strcmp(waits[i].group, group) && waits[i].set_up)
      waits[i].set_up();
  for (int i = 0; i < N_WAITS; i++) {
    if (strcmp(waits[i].group, group) != 0)
      continue;
    check_call(pthread_create(&waits[i].thread, NULL, run_wait, &waits[i]) == 0);
    while (!waits[i].begun)
      subject_tick();
    subject_tick(); /* names are made in one place */
  }
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  released = true;
  *gate = 1;
  for (int i = 0; i < N_WAITS; i++)
    if (!strcmp(waits[i].group, group) && waits[i].let)
      waits[i].let();
  for (int i = 0; i < N_WAITS; i++)
    if (!strcmp(waits[i].group, group))
      check_call(pthread_join(waits[i].thread, NULL) == 0);
  remove_ipc();
  return subject_pass();
}
