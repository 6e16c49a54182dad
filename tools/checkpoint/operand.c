// SPDX-License-Identifier: LGPL-2.1-or-later
#include "operand.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int operand_parse_pid(const char *text, uint32_t *ret_pid) {
  guint64 number = 0;
  if (!g_ascii_string_to_unsigned(text, 10, 1, INT32_MAX, &number, NULL))
    return report_usage("“%s” is no process id", text);
  *ret_pid = (uint32_t)number;
  return 0;
}

char *operand_default_name(uint32_t pid) {
  g_autofree char *path = g_strdup_printf("/proc/%u/comm", pid);
  g_autofree char *comm = NULL;
  char date[32] = "";
  time_t now = time(NULL);
  struct tm local;

  if (!g_file_get_contents(path, &comm, NULL, NULL) || comm[0] == '\0' || comm[0] == '\n')
    comm = g_strdup("process");
  g_strchomp(comm);
  g_strcanon(comm, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "_-.", '_');
  if (comm[0] == '.')
    comm[0] = '_';
  if (localtime_r(&now, &local))
    (void)strftime(date, sizeof(date), "-%Y%m%d-%H%M%S", &local);
  return g_strdup_printf("%s-%u%s", comm, pid, date);
}

int operand_open_directory(const char *path, bool make) {
  if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
    return -report_usage("cannot make the directory “%s”: %s", path, g_strerror(errno));
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd >= 0 ? fd : -report_usage("cannot open the directory “%s”: %s", path, g_strerror(errno));
}

int operand_open_process(uint32_t pid) {
  int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
  return fd >= 0 ? fd : -report_usage("process %u: %s", pid, g_strerror(errno));
}
