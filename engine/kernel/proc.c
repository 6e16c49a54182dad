/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIDFD_THREAD_ O_EXCL

static bool proc_gone(GError **error, pid_t pid, const char *name, int err) {
  if (err == ENOENT || err == ESRCH)
    return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Process %d does not exist (any more)", (int)pid);
  return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, err, "Cannot read /proc/%d/%s", (int)pid, name);
}

static char *read_all(int fd, pid_t pid, const char *name, size_t *ret_size, GError **error) {
  if (fd < 0) {
    proc_gone(error, pid, name, errno);
    return NULL;
  }
  size_t size = 4096, used = 0;
  char *buffer = g_malloc(size);
  for (;;) {
    if (size - used < 2048)
      buffer = g_realloc(buffer, size *= 4);
    ssize_t n = read(fd, buffer + used, size - used - 1);
    if (n < 0) {
      int err = errno;
      (void)close(fd);
      g_free(buffer);
      proc_gone(error, pid, name, err);
      return NULL;
    }
    if (n == 0)
      break;
    used += (size_t)n;
  }
  (void)close(fd);
  buffer[used] = '\0';
  if (ret_size)
    *ret_size = used;
  return buffer;
}

char *proc_read(pid_t pid, const char *name, size_t *ret_size, GError **error) {
  char path[128];
  g_snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  return read_all(open(path, O_RDONLY | O_CLOEXEC), pid, name, ret_size, error);
}

char *proc_read_at(int folder, pid_t pid, const char *name, size_t *ret_size, GError **error) {
  return read_all(openat(folder, name, O_RDONLY | O_CLOEXEC), pid, name, ret_size, error);
}

char *proc_readlink(pid_t pid, const char *name, GError **error) {
  char path[128], target[4096 + 16];
  g_snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  ssize_t n = readlink(path, target, sizeof target - 1);
  if (n < 0) {
    proc_gone(error, pid, name, errno);
    return NULL;
  }
  target[n] = '\0';
  return g_strdup(target);
}

/* Fields after the command, numbered as in proc(5): field 3 is at index 0. */
static const uint64_t *stat_fields(const char *after, char *state, uint64_t fields[static 52]) {
  while (*after == ' ')
    after++;
  *state = *after++;
  for (int i = 1; i < 52; i++) {
    char *end;
    fields[i] = (uint64_t)strtoll(after, &end, 10);
    if (fields[i] == INT64_MAX)
      fields[i] = strtoull(after, &end, 10);
    if (end == after)
      fields[i] = 0;
    after = end;
  }
  return fields;
}

static bool read_stat(pid_t pid, const char *name, ProcStat *ret, GError **error) {
  g_autofree char *text = proc_read(pid, name, NULL, error);
  if (!text)
    return false;
  char *open = strchr(text, '('), *close_paren = strrchr(text, ')');
  if (!open || !close_paren)
    return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "Cannot make sense of /proc/%d/stat", (int)pid);
  uint64_t f[52] = {0};
  ProcStat s = {0};
  g_strlcpy(s.comm, open + 1, MIN(sizeof s.comm, (size_t)(close_paren - open)));
  stat_fields(close_paren + 1, &s.state, f);
  s.ppid = (pid_t)f[1];
  s.pgid = (pid_t)f[2];
  s.sid = (pid_t)f[3];
  s.tty_nr = (int)f[4];
  s.tpgid = (pid_t)f[5];
  s.flags = f[6];
  s.n_threads = (unsigned)f[17];
  s.start_time = f[19];
  s.resident = f[21];
  s.start_code = f[23];
  s.end_code = f[24];
  s.start_stack = f[25];
  s.catches_sigsys = f[31] >> (SIGSYS - 1) & 1;
  s.exit_signal = (int)f[35];
  s.start_data = f[42];
  s.end_data = f[43];
  s.start_brk = f[44];
  s.arg_start = f[45];
  s.arg_end = f[46];
  s.env_start = f[47];
  s.env_end = f[48];
  s.exit_code = (int)f[49];
  *ret = s;
  return true;
}

bool proc_has_ended(pid_t tid) {
  char path[64], text[512];
  g_snprintf(path, sizeof path, "/proc/%d/stat", (int)tid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
  if (fd >= 0)
    (void)close(fd);
  text[MAX(n, 0)] = '\0';
  const char *after = strrchr(text, ')');
  return !after || after[2] == 'Z' || after[2] == 'X';
}

bool proc_stat(pid_t pid, ProcStat *ret, GError **error) {
  return read_stat(pid, "stat", ret, error);
}

bool proc_thread_stat(pid_t pid, pid_t tid, ProcStat *ret, GError **error) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/stat", (int)tid);
  return read_stat(pid, name, ret, error);
}

static const char *status_line(const char *text, const char *key) {
  const char *p = strstr(text, key);
  return p ? p + strlen(key) : NULL;
}

static uint64_t status_number(const char *text, const char *key, int base) {
  const char *p = status_line(text, key);
  return p ? strtoull(p, NULL, base) : 0;
}

static void status_ids(const char *text, const char *key, uint32_t ids[static 4]) {
  const char *p = status_line(text, key);
  for (int i = 0; p && i < 4; i++) {
    char *end;
    ids[i] = (uint32_t)strtoul(p, &end, 10);
    p = end;
  }
}

bool proc_status(pid_t pid, pid_t tid, ProcStatus *ret, GError **error) {
  char name[64];
  g_snprintf(name, sizeof name, "task/%d/status", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, error);
  if (!text)
    return false;
  ProcStatus s = {0};
  status_ids(text, "\nUid:", s.uid);
  status_ids(text, "\nGid:", s.gid);
  s.umask = (unsigned)status_number(text, "\nUmask:", 8);
  s.tracer = (pid_t)status_number(text, "\nTracerPid:", 10);
  s.cap_inh = status_number(text, "\nCapInh:", 16);
  s.cap_prm = status_number(text, "\nCapPrm:", 16);
  s.cap_eff = status_number(text, "\nCapEff:", 16);
  s.cap_bnd = status_number(text, "\nCapBnd:", 16);
  s.cap_amb = status_number(text, "\nCapAmb:", 16);
  s.no_new_privs = status_number(text, "\nNoNewPrivs:", 10) != 0;
  s.fd_size = (unsigned)status_number(text, "\nFDSize:", 10);
  s.seccomp = (int)status_number(text, "\nSeccomp:", 10);
  s.groups = g_array_new(FALSE, FALSE, sizeof(gid_t));
  const char *p = status_line(text, "\nGroups:");
  while (p && *p && *p != '\n') {
    char *end;
    gid_t g = (gid_t)strtoul(p, &end, 10);
    if (end == p)
      break;
    g_array_append_val(s.groups, g);
    p = end;
    while (*p == ' ')
      p++;
  }
  *ret = s;
  return true;
}

void proc_status_clear(ProcStatus *status) {
  g_clear_pointer(&status->groups, g_array_unref);
}

static int compare_pids(gconstpointer a, gconstpointer b) {
  return *(const pid_t *)a - *(const pid_t *)b;
}

bool proc_threads(pid_t pid, GArray *tids, GError **error) {
  char path[64];
  g_snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
  DIR *dir = opendir(path);
  if (!dir)
    return proc_gone(error, pid, "task", errno);
  g_array_set_size(tids, 0);
  for (struct dirent *e; (e = readdir(dir));) {
    pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
    if (tid > 0)
      g_array_append_val(tids, tid);
  }
  (void)closedir(dir);
  g_array_sort(tids, compare_pids);
  return true;
}

int proc_thread_pidfd(pid_t tid) {
  if (g_getenv("CHECKPOINTD_NO_THREAD_PIDFDS")) {
    errno = EINVAL;
    return -1;
  }
  return (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD_);
}

bool proc_is_kernel_worker(pid_t pid, pid_t tid) {
  char name[64];
  ProcStat stat;
  if (tid == pid)
    return false;
  g_snprintf(name, sizeof name, "task/%d/comm", (int)tid);
  g_autofree char *comm = proc_read(pid, name, NULL, NULL);
  /* Their names first: a look at comm costs less. io_uring(7); KVM and vhost, since Linux 6.14 and 6.4. */
  bool maybe = comm && (g_str_has_prefix(comm, "iou-") || g_str_has_prefix(comm, "kvm-") || g_str_has_prefix(comm, "vhost-"));
  return maybe && proc_thread_stat(pid, tid, &stat, NULL) &&
         stat.flags & (PROC_PF_IO_WORKER | PROC_PF_USER_WORKER);
}

/* Every process says who its parent is. */
static bool find_children(pid_t pid, GArray *children, GError **error) {
  DIR *dir = opendir("/proc");
  if (!dir)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot list /proc");
  for (struct dirent *e; (e = readdir(dir));) {
    ProcStat stat;
    pid_t child = g_ascii_isdigit(e->d_name[0]) ? (pid_t)atoi(e->d_name) : 0;
    if (child && proc_stat(child, &stat, NULL) && stat.ppid == pid)
      g_array_append_val(children, child);
  }
  (void)closedir(dir);
  return true;
}

/* Children are listed with the thread that made them, but a file for each of many threads costs more than all processes of
 * the machine, if these are fewer. */
static bool are_more_than_processes(guint threads) {
  struct sysinfo info;
  return threads > 16 && sysinfo(&info) == 0 && (guint)info.procs < threads + threads / 2;
}

bool proc_children(pid_t pid, GArray *tids, GArray *children, GError **error) {
  if (are_more_than_processes(tids->len))
    return find_children(pid, children, error);
  for (guint i = 0; i < tids->len; i++) {
    char name[64];
    g_snprintf(name, sizeof name, "task/%d/children", (int)g_array_index(tids, pid_t, i));
    g_autoptr(GError) why = NULL;
    g_autofree char *text = proc_read(pid, name, NULL, &why);
    if (!text && engine_error_code(why) == ENGINE_ERROR_CODE__NO_SUCH_PROCESS)
      continue; /* the thread has ended */
    if (!text) {
      g_propagate_error(error, g_steal_pointer(&why));
      return false;
    }
    for (char *p = text, *end; *p; p = end) {
      pid_t child = (pid_t)strtol(p, &end, 10);
      if (end == p)
        break;
      g_array_append_val(children, child);
    }
  }
  return true;
}

void proc_comm(pid_t pid, char comm[static 64]) {
  g_autofree char *text = proc_read(pid, "comm", NULL, NULL);
  g_strlcpy(comm, text ? g_strchomp(text) : "?", 64);
}
