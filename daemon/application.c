/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "application.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon-error.h"
#include "sd-auto.h"
#include "values.h"

#define ANSWER_USEC (10 * G_USEC_PER_SEC) /* how long a hook may take if the caller does not say */
#define RETURN_USEC (2 * G_USEC_PER_SEC)  /* how long after a dump its applications may need to register again */
#define PER_USER_MAX 64 /* two descriptors each */
#define ALL_MAX 256
#define PACKET_MAX 512

typedef struct Application {
  Applications *all;
  HookRound *round; /* NULL while it is in the table */
  Target *target;
  uid_t uid;
  int fd;
  bool asked;
  sd_event_source *source;
} Application;

/* Its registration ended with a dump that is over. While it registers again it has a connection to the bus, which would be
 * found to lead out of it. */
typedef struct Departed {
  Target *target;
  int64_t since; /* CLOCK_MONOTONIC usec */
} Departed;

struct Applications {
  sd_event *event;
  GPtrArray *list;     /* Application */
  GPtrArray *departed; /* Departed */
  GPtrArray *waiting;  /* HookRound, borrowed: those that wait for departed ones */
};

struct HookRound {
  Applications *all;
  pid_t root, myself;
  HooksMode mode;
  uint64_t timeout_usec;
  GPtrArray *list; /* Application, asked or only to be closed */
  sd_event_source *timer;
  HookRoundHandler handler;
  void *userdata;
};

static void application_close(Application *a) {
  a->source = sd_event_source_disable_unref(a->source);
  if (a->fd >= 0)
    (void)close(a->fd);
  a->fd = -EBADF;
}

static void application_free(void *data) {
  Application *a = data;

  application_close(a);
  target_free(a->target);
  g_free(a);
}

static void departed_free(void *data) {
  Departed *d = data;

  target_free(d->target);
  g_free(d);
}

static bool is_alive(const Target *target) {
  struct pollfd p = {.fd = target->pidfd, .events = POLLIN};

  return poll(&p, 1, 0) == 0;
}

Applications *applications_new(sd_event *event) {
  Applications *all = g_new0(Applications, 1);

  all->event = event;
  all->list = g_ptr_array_new_with_free_func(application_free);
  all->departed = g_ptr_array_new_with_free_func(departed_free);
  all->waiting = g_ptr_array_new();
  return all;
}

void applications_free(Applications *all) {
  if (!all)
    return;
  g_ptr_array_unref(all->list);
  g_ptr_array_unref(all->departed);
  g_ptr_array_unref(all->waiting);
  g_free(all);
}

size_t applications_count(const Applications *all) {
  return all->list->len;
}

/* Ends the round. It may be freed on return. */
static void round_end(HookRound *round, GError *error) {
  HookRoundHandler handler = round->handler;

  if (!handler) {
    g_clear_error(&error);
    return;
  }
  round->handler = NULL;
  g_clear_pointer(&round->timer, sd_event_source_disable_unref);
  handler(error, round->userdata);
}

static void round_look(HookRound *round) {
  for (size_t i = 0; i < round->list->len; i++)
    if (((const Application *)g_ptr_array_index(round->list, i))->asked)
      return;
  round_end(round, NULL);
}

static GError *refusal(const Application *a, const char *text) {
  g_autofree char *shown = values_text(text);

  return g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED, "pid %d (%s) refuses to be checkpointed now: %s",
      (int)a->target->pid, a->target->comm, shown);
}

/* An answer in a round. */
static void on_answer(Application *a, const char *packet) {
  HookRound *round = a->round;

  if (!a->asked)
    return;
  if (g_str_equal(packet, "ready")) {
    a->asked = false;
    round_look(round);
  } else
    round_end(round, refusal(a, g_str_has_prefix(packet, "refuse: ") ? packet + strlen("refuse: ") : packet));
}

static void forget(Application *a) {
  HookRound *round = a->round;

  (void)g_ptr_array_remove_fast(round ? round->list : a->all->list, a);
  if (round)
    round_look(round);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
  Application *a = userdata;
  char packet[PACKET_MAX + 1];
  ssize_t n = recv(fd, packet, PACKET_MAX, MSG_DONTWAIT);

  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return 0;
  if (n <= 0 || !a->round) { /* it has left, or speaks without being asked */
    forget(a);
    return 0;
  }
  packet[n] = '\0';
  on_answer(a, packet);
  return 0;
}

static bool check_limits(const Applications *all, uid_t uid, GError **error) {
  size_t mine = 0;

  for (size_t i = 0; i < all->list->len; i++)
    mine += ((const Application *)g_ptr_array_index(all->list, i))->uid == uid ? 1 : 0;
  if ((mine < PER_USER_MAX || uid == 0) && all->list->len < ALL_MAX)
    return true;
  g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED, "Too many applications of uid %u are registered", uid);
  return false;
}

static void on_return(Applications *all, pid_t pid);

bool applications_add(Applications *all, Target *target, uid_t uid, int fd, GError **error) {
  Application *a = g_new0(Application, 1);
  int r;

  a->all = all;
  a->target = target;
  a->uid = uid;
  a->fd = fd;
  if (!check_limits(all, uid, error)) {
    application_free(a);
    return false;
  }
  r = sd_event_add_io(all->event, &a->source, fd, EPOLLIN, on_io, a);
  if (r < 0) {
    application_free(a);
    return daemon_error_set_errno(error, -r, "Cannot watch the application's connection");
  }
  g_ptr_array_add(all->list, a);
  on_return(all, target->pid);
  return true;
}

HookRound *hook_round_new(Applications *all, pid_t root, pid_t myself, HooksMode mode, uint64_t timeout_usec) {
  HookRound *round = g_new0(HookRound, 1);

  round->all = all;
  round->root = root;
  round->myself = myself;
  round->mode = mode;
  round->timeout_usec = timeout_usec > 0 ? timeout_usec : ANSWER_USEC;
  round->list = g_ptr_array_new_with_free_func(application_free);
  return round;
}

void hook_round_close(HookRound *round) {
  for (size_t i = 0; i < round->list->len; i++)
    application_close(g_ptr_array_index(round->list, i));
}

static bool is_registered(const Applications *all, pid_t pid) {
  for (size_t i = 0; i < all->list->len; i++)
    if (((const Application *)g_ptr_array_index(all->list, i))->target->pid == pid)
      return true;
  return false;
}

static void depart(Applications *all, Application *a) {
  Departed *d;

  if (is_registered(all, a->target->pid)) /* it was faster than its job's end */
    return;
  d = g_new0(Departed, 1);
  d->target = g_steal_pointer(&a->target);
  d->since = g_get_monotonic_time();
  g_ptr_array_add(all->departed, d);
}

void hook_round_free(HookRound *round) {
  if (!round)
    return;
  for (size_t i = 0; i < round->list->len; i++) {
    Application *a = g_ptr_array_index(round->list, i);

    if (is_alive(a->target))
      depart(round->all, a);
  }
  (void)g_ptr_array_remove_fast(round->all->waiting, round);
  (void)sd_event_source_disable_unref(round->timer);
  g_ptr_array_unref(round->list);
  g_free(round);
}

/* When the last of the departed of this tree is given up, CLOCK_MONOTONIC usec; 0: there are none. Forgets old ones. */
static int64_t departed_until(const HookRound *round) {
  GPtrArray *departed = round->all->departed;
  int64_t now = g_get_monotonic_time(), until = 0;

  for (size_t i = departed->len; i > 0; i--) {
    const Departed *d = g_ptr_array_index(departed, i - 1);

    if (d->since + (int64_t)RETURN_USEC <= now || !is_alive(d->target))
      (void)g_ptr_array_remove_index_fast(departed, (guint)(i - 1));
    else if (d->target->pid != round->myself && target_is_within(d->target->pid, round->root))
      until = MAX(until, d->since + (int64_t)RETURN_USEC);
  }
  return until;
}

/* Out of the table into the round. */
static void gather(HookRound *round) {
  GPtrArray *list = round->all->list;

  for (size_t i = list->len; i > 0; i--) {
    Application *a = g_ptr_array_index(list, i - 1);

    if (!target_is_within(a->target->pid, round->root) || !is_alive(a->target))
      continue;
    (void)g_ptr_array_steal_index_fast(list, (guint)(i - 1));
    a->round = round;
    g_ptr_array_add(round->list, a);
  }
}

static int on_too_late(sd_event_source *source, uint64_t usec, void *userdata) {
  HookRound *round = userdata;
  GError *error = NULL;

  for (size_t i = 0; i < round->list->len; i++) {
    Application *a = g_ptr_array_index(round->list, i);

    if (a->asked && round->mode == HOOKS_REQUIRE && !error)
      error = g_error_new(DAEMON_ERROR, ENGINE_ERROR_CODE__TIMED_OUT,
          "pid %d (%s) has registered for checkpoints and was not ready for one within %u ms; option hooks=try goes on "
          "without it, hooks=skip does not ask at all",
          (int)a->target->pid, a->target->comm, (unsigned)(round->timeout_usec / 1000));
    a->asked = false;
  }
  round_end(round, error);
  return 0;
}

static void round_ask(HookRound *round) {
  (void)g_ptr_array_remove_fast(round->all->waiting, round);
  g_clear_pointer(&round->timer, sd_event_source_disable_unref);
  gather(round);
  if (round->list->len > APPLICATIONS_ROUND_MAX) {
    round_end(round, g_error_new(DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED,
                         "More than %d processes of the tree have registered for checkpoints", APPLICATIONS_ROUND_MAX));
    return;
  }
  for (size_t i = 0; i < round->list->len && round->mode != HOOKS_SKIP; i++) {
    Application *a = g_ptr_array_index(round->list, i);

    if (a->target->pid != round->myself)
      a->asked = send(a->fd, "pre-dump", strlen("pre-dump"), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
  }
  (void)sd_event_add_time_relative(
      round->all->event, &round->timer, CLOCK_MONOTONIC, round->timeout_usec, 0, on_too_late, round);
  round_look(round);
}

static int on_not_returned(sd_event_source *source, uint64_t usec, void *userdata) {
  round_ask(userdata);
  return 0;
}

void hook_round_begin(HookRound *round, HookRoundHandler handler, void *userdata) {
  int64_t until = departed_until(round);

  round->handler = handler;
  round->userdata = userdata;
  if (until == 0) {
    round_ask(round);
    return;
  }
  g_ptr_array_add(round->all->waiting, round);
  (void)sd_event_add_time(
      round->all->event, &round->timer, CLOCK_MONOTONIC, (uint64_t)until, 0, on_not_returned, round);
}

/* @pid has registered again. */
static void on_return(Applications *all, pid_t pid) {
  for (size_t i = all->departed->len; i > 0; i--)
    if (((const Departed *)g_ptr_array_index(all->departed, i - 1))->target->pid == pid)
      (void)g_ptr_array_remove_index_fast(all->departed, (guint)(i - 1));
  for (size_t i = all->waiting->len; i > 0; i--) {
    HookRound *round = g_ptr_array_index(all->waiting, i - 1);

    if (departed_until(round) == 0)
      round_ask(round);
  }
}

size_t hook_round_count(const HookRound *round) {
  return round->list->len;
}

size_t hook_round_fds(const HookRound *round, int fds[static APPLICATIONS_ROUND_MAX]) {
  size_t n = MIN(round->list->len, APPLICATIONS_ROUND_MAX);

  for (size_t i = 0; i < n; i++)
    fds[i] = ((const Application *)g_ptr_array_index(round->list, i))->fd;
  return n;
}
