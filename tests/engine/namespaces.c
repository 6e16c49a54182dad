/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Namespaces of the tree's own.
 *
 *   uts        names of a machine, in a process, in its child and apart from it in another child */
#include "subject.h"
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static ino_t inode_of(const char *kind) {
  char path[64];
  struct stat st;
  (void)snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
  check_call(stat(path, &st) == 0);
  return st.st_ino;
}

/* --- uts --- */

static void name_machine(const char *host, const char *domain) {
  check_call(unshare(CLONE_NEWUTS) == 0);
  check_call(sethostname(host, strlen(host)) == 0 && setdomainname(domain, strlen(domain)) == 0);
}

static void check_names(const char *host, const char *domain) {
  struct utsname names;
  check_call(uname(&names) == 0);
  check(strcmp(names.nodename, host) == 0, "the host is called %s, not %s", names.nodename, host);
  check(strcmp(names.domainname, domain) == 0, "the domain is called %s, not %s", names.domainname, domain);
}

/* Says over @fd where it is, as often as it is asked. */
static pid_t fork_namer(int *ret_fd, bool apart) {
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid > 0) {
    (void)close(ends[1]);
    *ret_fd = ends[0];
    return pid;
  }
  (void)close(ends[0]);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (apart)
    name_machine("apart", "elsewhere");
  for (char c; read(ends[1], &c, 1) == 1;) {
    ino_t ino = inode_of("uts");
    check_names(apart ? "apart" : "subject", apart ? "elsewhere" : "example.org");
    check_call(write(ends[1], &ino, sizeof ino) == sizeof ino);
  }
  _exit(0);
}

static ino_t ask(int fd) {
  ino_t ino = 0;
  check_call(write(fd, "?", 1) == 1 && read(fd, &ino, sizeof ino) == sizeof ino);
  return ino;
}

static void test_uts(void) {
  int with = -1, apart = -1;
  name_machine("subject", "example.org");
  (void)fork_namer(&with, false);
  (void)fork_namer(&apart, true);
  check(ask(with) == inode_of("uts") && ask(apart) != inode_of("uts"), "the children are not where they should be");
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_names("subject", "example.org");
  check(ask(with) == inode_of("uts"), "the child is not in its parent's uts namespace");
  check(ask(apart) != inode_of("uts"), "the other child is in its parent's uts namespace");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "uts";
  if (strcmp(what, "uts") == 0)
    test_uts();
  else
    subject_fail("what is %s?", what);
  return subject_pass();
}
