/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Processes: namespaces, sessions, terminals, and whose they are. */

#include "refused.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/if_packet.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { NOBODY = 65534, DISCIPLINES = 31, SOME_CONSOLE = 41 };

/* --- namespaces --- */

static void own_many(void) {
  check_call(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) == 0);
  (void)kept(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  (void)kept(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
}

/* --- mounts that cannot be made again --- */

static void *in_own_mounts(void *unused) {
  check_call(unshare(CLONE_NEWNS) == 0);
  for (;;)
    (void)pause();
  return NULL;
}

static void own_mounts(void) {
  struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/tmp/bound"};
  check_call(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
  check_call(mount("mine", "/tmp", "tmpfs", 0, NULL) == 0);
  check_call(mkdir("/tmp/ram", 0755) == 0 && mkdir("/tmp/pts", 0755) == 0 && mkdir("/tmp/below", 0755) == 0 && mkdir("/tmp/part", 0755) == 0);
  check_call(mount("ram", "/tmp/ram", "ramfs", 0, NULL) == 0);
  check_call(mount("pts", "/tmp/pts", "devpts", 0, "newinstance,ptmxmode=0666") == 0);
  (void)kept(open("/tmp/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  check_call(mount("below", "/tmp/below", "tmpfs", 0, NULL) == 0 && mount("above", "/tmp/below", "tmpfs", 0, NULL) == 0);
  check_call(mount("whole", "/tmp/part", "tmpfs", 0, NULL) == 0 && mkdir("/tmp/part/sub", 0755) == 0);
  check_call(mount("/tmp/part/sub", "/tmp/ram", NULL, MS_BIND, NULL) == 0 && umount("/tmp/part") == 0);
  (void)kept(open("/tmp/gone", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  check_call(unlink("/tmp/gone") == 0);
  int bound = kept(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  check_call(bind(bound, (const struct sockaddr *)&name, sizeof name) == 0);
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, in_own_mounts, NULL) == 0);
  if (syscall(SYS_clone, CLONE_FS | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0)
    for (;;) /* whose parent sees other mounts */
      (void)pause();
}

static void mounts(void) {
  child(own_mounts);
}

static void own_user(void) {
  check_call(unshare(CLONE_NEWUSER) == 0);
}

static void nothing(void) {}

static void own_pids(void) {
  check_call(unshare(CLONE_NEWPID) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0)
    for (;;) /* it sees no pid of ours */
      (void)pause();
}

static void own_time(void) {
  check_call(unshare(CLONE_NEWTIME) == 0);
  child(nothing);
}

static void namespaces(void) {
  child(own_many);
  child(own_user);
  child(own_pids);
  child(own_time);
}

/* What its network namespace has that cannot be brought back, and a socket of one in which nobody is. */
static void network(void) {
  check_call(unshare(CLONE_NEWNET) == 0);
  (void)kept(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  (void)kept(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  check_call(unshare(CLONE_NEWNET) == 0);
  check_call(system("ip link set lo up && ip link add vx0 type vxlan id 5 dstport 4789 remote 10.0.0.1 && "
                    "tc qdisc add dev lo root pfifo limit 5 && ip nexthop add id 5 dev lo && ip neigh add proxy 10.0.0.5 dev lo && "
                    "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out") == 0);
}

/* --- sessions --- */

static void not_leader(void) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0)
    idle();
  look_at(pid);
}

/* An orphan of a session whose leader has gone above its parent since. */
static void lead_and_leave(void) {
  check_call(setsid() > 0);
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    if (fork() == 0)
      idle();
    _exit(0);
  }
  check_call(waitpid(middle, NULL, 0) == middle);
}

static void reaper(void) {
  check_call(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  pid_t middle = fork();
  check_call(middle >= 0);
  if (middle == 0) {
    child(lead_and_leave);
    (void)raise(SIGSTOP);
    _exit(0);
  }
  check_call(waitpid(middle, NULL, WUNTRACED) == middle && prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
  check_call(kill(middle, SIGCONT) == 0 && waitpid(middle, NULL, 0) == middle);
}

static void orphan(void) {
  check_call(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  child(reaper);
}

static void init(void) {
  look_at(1);
}

static void kernel_thread(void) {
  char *stat = subject_read("/proc/2/stat", NULL);
  if (!strstr(stat, "(kthreadd)"))
    subject_skip("kernel threads are out of sight");
  look_at(2);
}

/* --- working directories --- */

static volatile int places_ready;

static void share_place(void) {
  long pid = syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0);
  check_call(pid >= 0);
  if (pid == 0)
    idle();
}

static void *stay(void *data) {
  places_ready++;
  for (;;)
    (void)pause();
  return data;
}

static void *leave_and_share(void *with_process) {
  pthread_t thread;
  check_call(unshare(CLONE_FS) == 0);
  if (with_process)
    share_place();
  else
    check_call(pthread_create(&thread, NULL, stay, NULL) == 0);
  return stay(NULL);
}

static void leave_place(bool with_process) {
  pthread_t thread;
  check_call(pthread_create(&thread, NULL, leave_and_share, with_process ? &thread : NULL) == 0);
  while (places_ready < 1 + !with_process)
    subject_tick();
}

static void two_threads(void) {
  share_place();
  leave_place(false);
}

/* A thread shares its place with a process; two threads have one, and their process shares its own with another. */
static void places(void) {
  child(two_threads);
  leave_place(true);
}

/* --- terminals --- */

static void open_pair(int *master, int *slave) {
  check_call(openpty(master, slave, NULL, NULL, NULL) == 0);
}

static void with_hung_up(void) {
  int master, slave;
  check_call(setsid() > 0 && signal(SIGHUP, SIG_IGN) != SIG_ERR);
  open_pair(&master, &slave);
  check_call(ioctl(slave, TIOCSCTTY, 0) == 0);
  (void)kept(open("/dev/tty", O_RDWR | O_CLOEXEC));
  check_call(close(master) == 0 && close(slave) == 0);
}

static void with_console(void) {
  char name[32];
  (void)snprintf(name, sizeof name, "/dev/tty%d", SOME_CONSOLE);
  int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0)
    return; /* a machine without consoles */
  check_call(setsid() > 0 && ioctl(fd, TIOCSCTTY, 1) == 0);
  (void)kept(open("/dev/tty", O_RDWR | O_CLOEXEC));
}

static char *devpts_place;

static void other_devpts(void) {
  devpts_place = place("pts");
  char *ptmx = place("pts/ptmx");
  check_call(
      mkdir(devpts_place, 0700) == 0 && mount("none", devpts_place, "devpts", 0, "newinstance,ptmxmode=0666") == 0);
  (void)kept(open(ptmx, O_RDWR | O_NOCTTY | O_CLOEXEC));
}

/* One end is outside: the slave of the first, the master of the second; both of the third are, and a copy of its
 * master. */
static void shared_terminals(void) {
  int a[2], b[2], c[2];
  open_pair(&a[0], &a[1]);
  open_pair(&b[0], &b[1]);
  open_pair(&c[0], &c[1]);
  outside(NULL, (int[]){a[1], b[0], c[0]}, 3);
  check_call(close(a[1]) == 0 && close(b[0]) == 0);
}

static void terminals(void) {
  int master, slave, discipline = DISCIPLINES;
  child(with_hung_up);
  child(with_console);
  other_devpts();
  open_pair(&master, &slave);
  while (discipline && ioctl(slave, TIOCSETD, &discipline) < 0)
    discipline--;
  if (!discipline)
    subject_skip("no line discipline but the ordinary one");
  shared_terminals();
}

static void leave_devpts(void) {
  check_call(umount2(devpts_place, MNT_DETACH) == 0);
}

static void with_terminal_outside(void) {
  int master, slave, other;
  open_pair(&master, &slave);
  open_pair(&other, &(int){0});
  check_call(close(other) == 0);
  outside(NULL, &master, 1);
  check_call(close(master) == 0 && setsid() > 0 && ioctl(slave, TIOCSCTTY, 0) == 0);
}

/* With shell-job: one terminal may be outside, not two; and its session has to be, too. */
static void two_terminals(void) {
  int a[2], b[2];
  child(with_terminal_outside);
  open_pair(&a[0], &a[1]);
  open_pair(&b[0], &b[1]);
  outside(NULL, (int[]){a[0], b[0]}, 2);
  check_call(close(a[0]) == 0 && close(b[0]) == 0);
}

/* --- whose they are: the caller is nobody --- */

static void of_root(void) {}

static void of_group(void) {
  check_call(setgroups(0, NULL) == 0 && setresgid(1, 1, 1) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0 &&
             prctl(PR_SET_DUMPABLE, 1) == 0);
}

static void not_dumpable(void) {
  check_call(
      setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

/* Somebody gave it one. */
static void in_namespaces(void) {
  check_call(unshare(CLONE_NEWUTS) == 0);
  not_dumpable();
  check_call(prctl(PR_SET_DUMPABLE, 1) == 0);
}

static void with_capability(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{.permitted = 1u << CAP_NET_BIND_SERVICE}};
  check_call(prctl(PR_SET_KEEPCAPS, 1) == 0);
  not_dumpable();
  check_call(syscall(SYS_capset, &header, data) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
}

static const RefusedCase cases[] = {
    {"namespaces", namespaces, NULL},
    {"network", network, NULL},
    {"mounts", mounts, NULL},
    {"not-leader", not_leader, NULL},
    {"orphan", orphan, NULL},
    {"places", places, NULL},
    {"init", init, NULL},
    {"kernel-thread", kernel_thread, NULL},
    {"terminals", terminals, leave_devpts},
    {"two-terminals", two_terminals, NULL},
    {"of-root", of_root, NULL},
    {"of-group", of_group, NULL},
    {"not-dumpable", not_dumpable, NULL},
    {"in-namespaces", in_namespaces, NULL},
    {"with-capability", with_capability, NULL},
    {0},
};

const RefusedTable task_cases = {subject_begin, cases};
