/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "landlock.h"
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_VERSION 1 /* LANDLOCK_CREATE_RULESET_VERSION */
#define LOAD_ADDRESS 0x400000ull

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

struct Stranger {
  pid_t pid;
  uid_t uid;
  gid_t gid;
  int said; /* where it says why it could not begin, or end of file; -1: asked */
};

static bool landlock_is_on(void) {
  return syscall(NR_LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION) > 0;
}

/* A whole program: pause(2), for ever. Whoever has its user id may look into it, so nothing of the engine's may be there. */
typedef struct Sleeper {
  Elf64_Ehdr header;
  Elf64_Phdr segment;
  unsigned char code[9];
} Sleeper;

static int open_sleeper(void) {
  const Sleeper s = {
      .header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
          .e_type = ET_EXEC,
          .e_machine = EM_X86_64,
          .e_version = EV_CURRENT,
          .e_entry = LOAD_ADDRESS + offsetof(Sleeper, code),
          .e_phoff = offsetof(Sleeper, segment),
          .e_ehsize = sizeof(Elf64_Ehdr),
          .e_phentsize = sizeof(Elf64_Phdr),
          .e_phnum = 1},
      .segment = {.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_vaddr = LOAD_ADDRESS, .p_filesz = sizeof s, .p_memsz = sizeof s, .p_align = 4096},
      .code = {0xb8, SYS_pause, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}};
  int fd = memfd_create("stranger", MFD_CLOEXEC | MFD_EXEC);
  if (fd < 0 && errno == EINVAL)
    fd = memfd_create("stranger", MFD_CLOEXEC);
  if (fd < 0 || (write(fd, &s, sizeof s) == (ssize_t)sizeof s && fchmod(fd, 0755) == 0))
    return fd;
  (void)close(fd);
  return -1;
}

/* Without capabilities, also when it is root. */
static int become(uid_t uid, gid_t gid) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {{0}};
  (void)setgroups(0, NULL);
  (void)prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0);
  if (syscall(SYS_setresgid, gid, gid, gid) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0 || syscall(SYS_capset, &header, none) < 0)
    return -errno;
  (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  return 0;
}

/* Says nothing when it has begun, and why not else. */
static _Noreturn void stranger_main(uid_t uid, gid_t gid, int program, int say, pid_t engine) {
  char *const nothing[] = {NULL};
  sigset_t none;
  sigemptyset(&none);
  (void)setsid();
  int e = become(uid, gid);
  if (e == 0 && getppid() == engine) {
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)syscall(SYS_execveat, program, "", nothing, nothing, 0x1000 /* AT_EMPTY_PATH */);
    e = -errno;
  }
  if (write(say, &e, sizeof e) < 0)
    _exit(2);
  _exit(1);
}

static int start(Stranger *s, int program) {
  int fds[2];
  sigset_t all, before;
  pid_t engine = getpid();
  if (pipe2(fds, O_CLOEXEC) < 0)
    return -errno;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  s->pid = fork();
  if (s->pid == 0)
    stranger_main(s->uid, s->gid, program, fds[1], engine);
  int e = s->pid < 0 ? -errno : 0;
  sigprocmask(SIG_SETMASK, &before, NULL);
  (void)close(fds[1]);
  s->said = fds[0];
  return e;
}

static bool fail_stranger(int e, uid_t uid, GError **error) {
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, e,
      "Cannot find out what Landlock restricts: no program can be started as user %u (is vm.memfd_noexec 2?)", uid);
}

bool stranger_new(uid_t uid, gid_t gid, Stranger **ret, GError **error) {
  *ret = NULL;
  if (!landlock_is_on())
    return true;
  int program = open_sleeper(), e = program < 0 ? -errno : 0;
  Stranger *s = g_new0(Stranger, 1);
  *s = (Stranger){.uid = uid, .gid = gid, .said = -1};
  if (program >= 0) {
    e = start(s, program);
    (void)close(program);
  }
  if (e == 0) {
    *ret = s;
    return true;
  }
  stranger_free(s);
  return fail_stranger(e, uid, error);
}

bool stranger_wait(Stranger *s, GError **error) {
  int e = 0;
  if (!s || s->said < 0)
    return true;
  while (read(s->said, &e, sizeof e) < 0 && errno == EINTR)
    ;
  (void)close(s->said);
  s->said = -1;
  return e == 0 || fail_stranger(e, s->uid, error);
}

bool stranger_is(const Stranger *s, uid_t uid, gid_t gid) {
  return s && s->uid == uid && s->gid == gid;
}

pid_t stranger_pid(const Stranger *s) {
  return s ? s->pid : 0;
}

void stranger_free(Stranger *s) {
  if (!s)
    return;
  if (s->said >= 0)
    (void)close(s->said);
  if (s->pid > 0) {
    (void)kill(s->pid, SIGKILL);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
      ;
  }
  g_free(s);
}

/* --- the second question --- */

static bool ask(const FrozenTask *task, FrozenThread *t, pid_t stranger, gint64 *ret, GError **error) {
  Region *region = injection_region(task->injection);
  size_t mark = region_mark(region);
  g_autoptr(Program) p = program_new();
  size_t data = program_data(p, NULL, 16);
  PROGRAM_CALL(p, "get_robust_list", SYS_get_robust_list, ARG(stranger), ARG_DATA(data), ARG_DATA(data + 8));
  program_expect(p, EXPECT_ANY, 0);
  LoadedProgram loaded;
  if (!region_load(region, p, NULL, &loaded, error))
    return false;
  region_start(region, t->lane, &loaded);
  bool ok = region_wait(region, t->lane, t->state.tid, error);
  *ret = ok ? loaded.results[0] : 0;
  region_release(region, mark);
  return ok;
}

static bool check_thread(Job *job, const FrozenTask *task, FrozenThread *t, GError **error) {
  const CredsEntry *c = t->model->core->thread_core->creds;
  Stranger *stranger = NULL;
  gint64 result = 0;
  bool ok = stranger_new(c->uid, c->gid, &stranger, error) && stranger_wait(stranger, error) && (!stranger || ask(task, t, stranger_pid(stranger), &result, error));
  stranger_free(stranger);
  if (!ok || result >= 0)
    return ok;
  g_autofree char *object = g_strdup_printf("pid %d (%s) thread %d", (int)task->pid, task->stat.comm, (int)t->state.tid);
  job_block(job, "task", task->pid, -1, object,
      "it is restricted by Landlock (or another security module), and nobody can read from the kernel what it may do",
      "start it without Landlock, or have it call landlock_restrict_self(2) after the checkpoint");
  return true;
}

/* In a user namespace of its own nobody may look at a process of another: that says nothing, and is blocked anyway. */
static bool is_elsewhere(const FrozenTask *task) {
  char path[64];
  struct stat here, there;
  (void)snprintf(path, sizeof path, "/proc/%d/ns/user", (int)task->view);
  return stat("/proc/self/ns/user", &here) == 0 && stat(path, &there) == 0 && here.st_ino != there.st_ino;
}

bool landlock_check(Job *job, FrozenTree *tree, GError **error) {
  for (guint i = 0; i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    for (guint k = 0; task->injection && k < task->threads->len; k++) {
      FrozenThread *t = &g_array_index(task->threads, FrozenThread, k);
      if (t->suspect && !is_elsewhere(task) && !check_thread(job, task, t, error))
        return false;
    }
  }
  return true;
}
