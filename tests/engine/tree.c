/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A tree: children and grandchildren, sessions, process groups, zombies with their statuses, a stopped task, an orphan
 * with a parent other than the one that made it. The root compares what the kernel says of all of them before and
 * after. */

#include "subject.h"
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { CHILD, GRANDCHILD, LEADER, IN_SESSION, GROUP, GROUP_MEMBER, STOPPED, EXITED, KILLED, DUMB, ORPHAN, N_TASKS };

typedef struct Board {
  volatile pid_t pid[N_TASKS];
  volatile unsigned long beats[N_TASKS];
} Board;

static Board *board;

typedef struct Facts {
  pid_t ppid, pgid, sid;
  char state;
} Facts;

static Facts facts_of(pid_t pid) {
  char path[64];
  Facts facts = {0};
  (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
  char *text = subject_read(path, NULL);
  const char *after = strrchr(text, ')');
  check(after && sscanf(after + 2, "%c %d %d %d", &facts.state, &facts.ppid, &facts.pgid, &facts.sid) == 4,
      "cannot read the facts of %d", pid);
  free(text);
  return facts;
}

/* Lives as long as its parent, which it watches, and beats. */
static void live(int who) {
  pid_t parent = getppid();
  board->pid[who] = getpid();
  for (;;) {
    check(getpid() == board->pid[who], "task %d was %d and is %d", who, board->pid[who], getpid());
    if (getppid() != parent && who != ORPHAN)
      subject_fail("task %d had parent %d and has %d", who, parent, getppid());
    board->beats[who]++;
    subject_tick();
  }
}

static pid_t spawn(void) {
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid == 0)
    check_call(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
  return pid;
}

static void child(void) {
  if (spawn() == 0)
    live(GRANDCHILD);
  live(CHILD);
}

static void leader(void) {
  check_call(setsid() == getpid());
  if (spawn() == 0)
    live(IN_SESSION);
  live(LEADER);
}

static void group(void) {
  check_call(setpgid(0, 0) == 0);
  if (spawn() == 0)
    live(GROUP_MEMBER);
  live(GROUP);
}

static void die(int who, int status, int signo) {
  board->pid[who] = getpid();
  if (signo)
    (void)raise(signo);
  _exit(status);
}

/* Its maker goes away at once; the subreaper, the root, gets it. */
static void orphan(void) {
  if (fork() == 0)
    live(ORPHAN);
  while (!board->pid[ORPHAN])
    subject_tick();
  _exit(0);
}

static void dumb(void) {
  struct clone_args args = {.exit_signal = 0};
  long pid = syscall(SYS_clone3, &args, sizeof args);
  check_call(pid >= 0);
  if (pid == 0)
    live(DUMB);
}

static void settle(Facts *facts) {
  siginfo_t info;
  for (int i = 0; i < N_TASKS; i++)
    while (!board->pid[i])
      subject_tick();
  check_call(waitid(P_PID, (id_t)board->pid[EXITED], &info, WEXITED | WNOWAIT) == 0);
  check_call(waitid(P_PID, (id_t)board->pid[KILLED], &info, WEXITED | WNOWAIT) == 0);
  check_call(kill(board->pid[STOPPED], SIGSTOP) == 0);
  check_call(waitid(P_PID, (id_t)board->pid[STOPPED], &info, WSTOPPED) == 0);
  (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* everyone sleeps somewhere now */
  for (int i = 0; i < N_TASKS; i++)
    facts[i] = facts_of(board->pid[i]);
}

static bool stands_still(int who) {
  return who == STOPPED || who == EXITED || who == KILLED;
}

static void compare(const Facts *before) {
  for (int i = 0; i < N_TASKS; i++) {
    Facts now = facts_of(board->pid[i]);
    check(now.ppid == before[i].ppid && now.pgid == before[i].pgid && now.sid == before[i].sid,
        "task %d: parent %d, group %d, session %d; was %d, %d, %d", i, now.ppid, now.pgid, now.sid, before[i].ppid,
        before[i].pgid, before[i].sid);
    check(!stands_still(i) || now.state == before[i].state, "task %d: state %c, was %c", i, now.state, before[i].state);
  }
}

static void check_beats(void) {
  unsigned long then[N_TASKS];
  for (int i = 0; i < N_TASKS; i++)
    then[i] = board->beats[i];
  for (int i = 0; i < N_TASKS; i++)
    check(stands_still(i) || subject_await(board->beats[i] != then[i]), "task %d stands still", i);
  for (int i = 0; i < N_TASKS; i++)
    check(!stands_still(i) || board->beats[i] == then[i], "task %d ran though it must not", i);
}

static void check_waits(void) {
  int status = 0;
  pid_t pid = board->pid[EXITED];
  check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42, "exit status %x", status);
  pid = board->pid[KILLED];
  check(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2, "killed: %x", status);
  pid = board->pid[STOPPED];
  check(waitpid(pid, &status, WNOHANG | WUNTRACED) == 0, "the stop was waited for before and is reported again");
  check_call(kill(pid, SIGCONT) == 0);
  check(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status), "the continuation was not reported: %x",
      status);
  unsigned long then = board->beats[STOPPED];
  check(subject_await(board->beats[STOPPED] != then), "the stopped task does not go on after SIGCONT");
  /* No ordinary child, and no SIGCHLD, when it dies. */
  pid = board->pid[DUMB];
  check_call(kill(pid, SIGKILL) == 0);
  check(waitpid(pid, &status, __WCLONE) == pid && WIFSIGNALED(status),
      "the child without exit signal is not one: %x, %s", status, strerror(errno));
}

static void finish(void) {
  static const int mine[] = {CHILD, LEADER, GROUP, STOPPED, ORPHAN};
  int status;
  check(waitpid(-board->pid[GROUP], &status, WNOHANG) == 0, "no waiting by group");
  for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++) {
    pid_t pid = board->pid[mine[i]];
    check_call(kill(pid, SIGKILL) == 0);
    check(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "task %d is no child of the root", mine[i]);
  }
  /* Grandchildren follow by their parent death signal, which was set before the dump, and come to the subreaper. */
  for (int i = 0; i < 3; i++)
    check(wait(&status) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "grandchild %d: %x", i, status);
  check(wait(&status) < 0 && errno == ECHILD, "there is one child too many");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check_call(board != MAP_FAILED && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  if (spawn() == 0)
    child();
  if (spawn() == 0)
    leader();
  if (spawn() == 0)
    group();
  if (spawn() == 0)
    live(STOPPED);
  if (spawn() == 0)
    die(EXITED, 42, 0);
  if (spawn() == 0)
    die(KILLED, 0, SIGUSR2);
  pid_t maker = fork();
  if (maker == 0)
    orphan();
  check_call(waitpid(maker, NULL, 0) == maker);
  dumb();

  Facts before[N_TASKS];
  settle(before);
  subject_ready();
  while (!subject_checking() && !subject_failed())
    subject_tick();
  compare(before);
  check_beats();
  check_waits();
  finish();
  return subject_pass();
}
