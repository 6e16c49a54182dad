/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* bench-target-run COMMAND…: runs it and says, in a last line of output, how many microseconds it took and its peak
 * memory in KiB. A small process of its own, because what a child inherits counts into its peak. */

#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_usec(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char **argv) {
  struct rusage usage;
  int status = 0;
  if (argc < 2)
    return 2;
  long long begin = now_usec();
  pid_t pid = fork();
  if (pid == 0) {
    execv(argv[1], argv + 1);
    _exit(127);
  }
  if (pid < 0 || wait4(pid, &status, 0, &usage) != pid)
    return 126;
  printf("\n%lld %ld\n", now_usec() - begin, usage.ru_maxrss);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
