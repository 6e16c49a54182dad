/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin in this process that never returns would keep an application frozen for ever: nobody here looks at the job's
 * time-out or at a cancel request meanwhile. So the process ends itself; what becomes of the tree then is as after any
 * death of the engine. */

#include "plugin-private.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define GRACE_USEC G_USEC_PER_SEC            /* after the job's time-out */
#define PATIENCE_USEC (600 * G_USEC_PER_SEC) /* without one, and since its last sign of life */

static char message[256];

/* Only what a signal handler may do. */
static void on_alarm(int signo) {
  (void)!write(STDERR_FILENO, message, strlen(message));
  (void)signal(signo, SIG_DFL);
  (void)raise(signo);
}

static void set_timer(gint64 usec) {
  const struct itimerval timer = {.it_value = {.tv_sec = usec / G_USEC_PER_SEC, .tv_usec = usec % G_USEC_PER_SEC}};
  (void)setitimer(ITIMER_REAL, &timer, NULL);
}

void watchdog_start(const Plugin *p) {
  const struct sigaction action = {.sa_handler = on_alarm, .sa_flags = (int)SA_RESETHAND};
  gint64 left = job_time_left(p->set->job);
  (void)snprintf(message, sizeof message, "plugin %s does not return: the engine ends\n", p->name);
  sigset_t alarms;
  (void)sigemptyset(&alarms);
  (void)sigaddset(&alarms, SIGALRM);
  (void)sigprocmask(SIG_UNBLOCK, &alarms, NULL);
  (void)sigaction(SIGALRM, &action, NULL);
  set_timer(left < 0 ? PATIENCE_USEC : left + GRACE_USEC);
}

void watchdog_stop(void) {
  set_timer(0);
  (void)signal(SIGALRM, SIG_DFL);
}
