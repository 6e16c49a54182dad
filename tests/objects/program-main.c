/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* object-<file> --list: names the cases that can run alone. object-<file> STATE [CASE…]: sets the cases of one file up, makes STATE.ready, verifies them again and again, and
 * when STATE.check appears writes "PASS" or "FAIL: reason" into STATE.result. Cases that must be refused or that cannot
 * run alone are left out unless they are named. */

#include "object-case.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool chosen(const ObjectCase *one, int n, char *const *names) {
  if (!n)
    return !one->blocked && !one->unrestorable && !one->between && !one->racy;
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], one->name) == 0)
      return true;
  return false;
}

static bool write_file(const char *state, const char *suffix, const char *text) {
  char path[4096], partial[4200];
  (void)snprintf(path, sizeof path, "%s.%s", state, suffix);
  (void)snprintf(partial, sizeof partial, "%s.new", path);
  int fd = open(partial, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  if (fd >= 0)
    (void)close(fd);
  return ok && rename(partial, path) == 0;
}

static int finish(const char *state, const char *failure) {
  char text[1024];
  (void)snprintf(text, sizeof text, failure ? "FAIL: %s" : "PASS", failure);
  return write_file(state, "result", text) && !failure ? 0 : 1;
}

static const char *for_all(
    int n, char *const *names, const char *dir, const char *(*call)(const ObjectCase *, const char *)) {
  const char *failure = NULL;
  for (const ObjectCase *one = object_cases; one->name && !failure; one++)
    if (chosen(one, n, names))
      failure = call(one, case_path(dir, one->name));
  return failure;
}

static const char *set_up(const ObjectCase *one, const char *dir) {
  char *own = strdup(dir); /* case_path() has few buffers */
  REQUIRE(own && (mkdir(own, 0755) == 0));
  return one->setup(own);
}

static const char *verify(const ObjectCase *one, const char *dir) {
  char *own = strdup(dir);
  const char *failure = one->blocked ? NULL : one->verify(own);
  free(own);
  return failure;
}

static int list(void) {
  for (const ObjectCase *one = object_cases; one->name; one++)
    if (chosen(one, 0, NULL))
      (void)puts(one->name);
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    (void)fprintf(stderr, "usage: %s --list | STATE [CASE...]\n", argv[0]);
    return 2;
  }
  if (strcmp(argv[1], "--list") == 0)
    return list();
  const char *state = argv[1];
  char dir[4096], check[4096];
  (void)snprintf(dir, sizeof dir, "%s.dir", state);
  (void)snprintf(check, sizeof check, "%s.check", state);
  if (mkdir(dir, 0755) < 0)
    return finish(state, "cannot make the scratch directory");
  const char *failure = for_all(argc - 2, argv + 2, dir, set_up);
  if (failure || !write_file(state, "ready", "ready\n"))
    return finish(state, failure ? failure : "cannot write ready");
  case_final = false;
  while (!failure && access(check, F_OK) < 0) {
    failure = for_all(argc - 2, argv + 2, dir, verify);
    (void)usleep(1000);
  }
  case_final = true;
  if (!failure)
    failure = for_all(argc - 2, argv + 2, dir, verify);
  return finish(state, failure);
}
