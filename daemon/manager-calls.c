/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the methods of org.criu.Checkpoint.Manager do. See call.h for the two steps. */
#include "manager-calls.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon-error.h"
#include "job-bus.h"
#include "manager-bus.h"
#include "sd-auto.h"
#include "subscriber.h"
#include "values.h"

static bool unreadable(GError **error) {
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "The message cannot be read");
  return false;
}

static bool parse_name(Call *call, GError **error) {
  const char *name;

  if (sd_bus_message_read_basic(call->message, 's', &name) < 0)
    return unreadable(error);
  call->name = g_strdup(name);
  return store_check_name(name, error);
}

/* A dump may only be refused with NotSupported where it would be allowed at all. */
static bool check_supported(const Call *call, GError **error) {
  if (!call->options.unsupported)
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_SUPPORTED, "Option '%s' is not supported by this version",
      call->options.unsupported);
  return false;
}

static bool check_not_ours(const Call *call, pid_t pid, GError **error) {
  if (!manager_owns_process(call->manager, pid))
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
      "pid %d: The checkpoint service cannot dump itself", (int)pid);
  return false;
}

/* @target is handed over; NULL with @error set already. */
static bool take_target(Call *call, Target *target, GError **error) {
  call->target = target;
  if (!target || !check_not_ours(call, target->pid, error))
    return false;
  if (target_is_within(getpid(), call->target->pid)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
        "pid %d (%s): its tree holds the checkpoint service itself", (int)call->target->pid, call->target->comm);
    return false;
  }
  call->any = call->options.any_target || !target_is_of(call->target, call->caller->uid);
  return true;
}

static bool pin_target(Call *call, uint32_t pid, GError **error) {
  if (pid <= INT32_MAX && !check_not_ours(call, (pid_t)pid, error))
    return false;
  if (take_target(call, target_new(pid <= INT32_MAX ? (pid_t)pid : 0, error), error))
    return true;
  if (pid > INT32_MAX)
    g_prefix_error(error, "pid %u: ", pid);
  return false;
}

static bool check_new_name(const Call *call, GError **error) {
  if (call->options.replace || !store_has(call->manager->store, call->owner, call->name))
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__CHECKPOINT_EXISTS,
      "There is a checkpoint '%s' already; option 'replace' would replace it", call->name);
  return false;
}

static bool parse_dump(Call *call, GError **error) {
  uint32_t pid;

  if (sd_bus_message_read_basic(call->message, 'u', &pid) < 0)
    return unreadable(error);
  return parse_name(call, error) && job_options_read(&call->options, call->message, OPTION_FOR_DUMP, error) &&
         pin_target(call, pid, error) && check_new_name(call, error);
}

static bool parse_dump_self(Call *call, GError **error) {
  return parse_name(call, error) &&
         job_options_read(&call->options, call->message, OPTION_FOR_DUMP | OPTION_FOR_SELF, error) &&
         take_target(call, caller_pin(call->caller, error), error) && check_new_name(call, error);
}

/* A descriptor that only names a place (O_PATH) was opened with no right to it at all. */
static bool parse_directory(Call *call, GError **error) {
  struct stat st;
  int fd;

  if (sd_bus_message_read_basic(call->message, 'h', &fd) < 0)
    return unreadable(error);
  if (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode) || (fcntl(fd, F_GETFL) & O_PATH)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS,
        "The descriptor is no directory, opened with O_RDONLY and O_DIRECTORY");
    return false;
  }
  call->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return call->fd >= 0 || daemon_error_set_errno(error, errno, "Cannot keep the directory");
}

static bool parse_directory_options(Call *call, unsigned members, GError **error) {
  if (!job_options_read(&call->options, call->message, members, error))
    return false;
  if (!call->options.replace && !call->options.owner_set)
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "Option '%s': only for checkpoints in the store",
      call->options.replace ? "replace" : "owner");
  return false;
}

static bool parse_dump_self_to(Call *call, GError **error) {
  return parse_directory(call, error) && parse_directory_options(call, OPTION_FOR_DUMP | OPTION_FOR_SELF, error) &&
         take_target(call, caller_pin(call->caller, error), error);
}

static bool parse_dump_to(Call *call, GError **error) {
  Target *target;
  int fd;

  if (sd_bus_message_read_basic(call->message, 'h', &fd) < 0)
    return unreadable(error);
  target = target_new_from_pidfd(fd, error);
  if (!target)
    return false;
  call->target = target;
  return parse_directory(call, error) && parse_directory_options(call, OPTION_FOR_DUMP, error) &&
         take_target(call, g_steal_pointer(&call->target), error);
}

static bool parse_restore_from(Call *call, GError **error) {
  return parse_directory(call, error) && parse_directory_options(call, OPTION_FOR_RESTORE, error);
}

static bool parse_register(Call *call, GError **error) {
  int fd, type = 0;
  socklen_t size = sizeof type;

  if (sd_bus_message_read_basic(call->message, 'h', &fd) < 0)
    return unreadable(error);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS, "The connection is no seqpacket socket");
    return false;
  }
  call->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (call->fd < 0)
    return daemon_error_set_errno(error, errno, "Cannot keep the connection");
  if (!job_options_read(&call->options, call->message, OPTION_FOR_REGISTER, error))
    return false;
  call->target = caller_pin(call->caller, error);
  return call->target;
}

static bool parse_explain(Call *call, GError **error) {
  uint32_t pid;

  if (sd_bus_message_read_basic(call->message, 'u', &pid) < 0)
    return unreadable(error);
  return job_options_read(&call->options, call->message, OPTION_FOR_EXPLAIN, error) && pin_target(call, pid, error);
}

/* Option `owner`, for what concerns somebody else's checkpoints or jobs. */
static void take_owner(Call *call) {
  if (call->options.owner_set)
    call->owner = call->options.owner;
  call->any = call->options.all || call->owner != call->caller->uid;
}

/* For others' checkpoints the answer to "is there one?" waits for the authorization. */
static bool check_own_exists(const Call *call, GError **error) {
  if (call->any || store_has(call->manager->store, call->owner, call->name))
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT, "There is no checkpoint '%s'", call->name);
  return false;
}

/* A checkpoint of a tree that was not its owner's (dump-any was granted once) is not
 * theirs to bring back: that needs restore-any again. */
static bool is_of_foreign_tree(const Call *call) {
  g_autoptr(GVariant) description = store_describe(call->manager->store, call->owner, call->name, NULL);
  gboolean any_target = FALSE;

  if (description)
    (void)g_variant_lookup(description, "any-target", "b", &any_target);
  return any_target;
}

static bool parse_restore(Call *call, GError **error) {
  if (!parse_name(call, error) || !job_options_read(&call->options, call->message, OPTION_FOR_RESTORE, error))
    return false;
  take_owner(call);
  if (!check_own_exists(call, error))
    return false;
  call->any |= is_of_foreign_tree(call);
  return true;
}

static bool parse_checkpoint(Call *call, GError **error) {
  if (!parse_name(call, error) || !job_options_read(&call->options, call->message, OPTION_FOR_CHECKPOINTS, error))
    return false;
  take_owner(call);
  return check_own_exists(call, error);
}

static bool parse_list_checkpoints(Call *call, GError **error) {
  if (!job_options_read(&call->options, call->message, OPTION_FOR_LIST_CHECKPOINTS, error))
    return false;
  take_owner(call);
  return true;
}

static bool parse_list_jobs(Call *call, GError **error) {
  if (!job_options_read(&call->options, call->message, OPTION_FOR_LIST_JOBS, error))
    return false;
  take_owner(call);
  return true;
}

static bool parse_check(Call *call, GError **error) {
  return job_options_read(&call->options, call->message, OPTION_FOR_CHECK, error);
}

static bool parse_nothing(Call *call, GError **error) {
  return true;
}

/* Quotas and space: what would fail for sure fails before the application is stopped. */
static bool check_quota(const Call *call, GError **error) {
  const Limits *limits = &call->manager->limits;
  uint64_t bytes, available = store_free_bytes(call->manager->store);
  uint32_t count;

  if (available < limits->keep_free_bytes) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SPACE,
        "The store has %" G_GUINT64_FORMAT " bytes free, less than the %" G_GUINT64_FORMAT
        " to be kept (keep-free-bytes in checkpointd.conf)",
        available, limits->keep_free_bytes);
    return false;
  }
  if (call->caller->uid == 0)
    return true;
  store_usage(call->manager->store, call->owner, &bytes, &count);
  if ((limits->bytes_per_user > 0 && bytes >= limits->bytes_per_user) ||
      (limits->checkpoints_per_user > 0 && count >= limits->checkpoints_per_user &&
          !store_has(call->manager->store, call->owner, call->name))) {
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED,
        "uid %u has %u checkpoints with %" G_GUINT64_FORMAT
        " bytes, which is all that checkpointd.conf allows; remove some",
        call->owner, count, bytes);
    return false;
  }
  return true;
}

/* Moves what was asked into a job; the call keeps its message. */
static Job *make_job(Call *call, EngineOperation operation) {
  Job *job = job_new(call->manager->event, operation, &bus_job_observer, NULL);

  job->owner = call->caller->uid;
  job->gids = g_memdup2(call->caller->gids, call->caller->n_gids * sizeof(gid_t));
  job->n_gids = call->caller->n_gids;
  job->any_target = call->any || call->caller->uid == 0;
  job->target = g_steal_pointer(&call->target);
  if (call->name) {
    g_free(job->name);
    job->name = g_strdup(call->name);
  }
  job->store_uid = call->owner;
  job->is_directory = call->fd >= 0;
  job->images_fd = call->fd;
  call->fd = -EBADF;
  job->caller_pid = call->caller->pid;
  if (operation == ENGINE_OPERATION__DUMP || operation == ENGINE_OPERATION__EXPLAIN)
    job->applications = call->manager->applications;
  job->options = call->options;
  call->options = (JobOptions){};
  job->store = call->manager->store;
  job->limits = &call->manager->limits;
  return job;
}

/* @job is handed over if it is accepted. */
static bool submit_job(Call *call, Job *job, ReplyForm form, GError **error) {
  Manager *manager = call->manager;
  BusJob *bus_job;

  if (!queue_check(manager->queue, job, error))
    return false;
  job->id = store_next_job_id(manager->store);
  bus_job = bus_job_new(manager, job, call->caller->name);
  bus_job->released = form == REPLY_DESCRIPTION || form == REPLY_PLUGINS || form == REPLY_NOTHING; /* nobody looks at that one again */
  /* The engine works already while the signal is made. */
  queue_add(manager->queue, bus_job->job);
  bus_job_announce(bus_job);
  (void)bus_job_add_waiter(bus_job, call->message, form);
  return true;
}

static bool start_job(Call *call, EngineOperation operation, ReplyForm form, GError **error) {
  g_autoptr(Job) job = make_job(call, operation);

  if (!submit_job(call, job, form, error))
    return false;
  (void)g_steal_pointer(&job);
  return true;
}

/* Who it belonged to when polkit was asked is who it must belong to now: also for an
 * administrator, who was told whose process it is. */
static bool check_target_again(const Call *call, GError **error) {
  uid_t asked[G_N_ELEMENTS(call->target->uids)];

  memcpy(asked, call->target->uids, sizeof asked);
  if (!target_refresh(call->target, error))
    return false;
  if (call->caller->uid == 0 || memcmp(asked, call->target->uids, sizeof asked) == 0)
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
      "pid %d (%s): it changed its user while authorization was asked for; to dump it needs the action %s",
      (int)call->target->pid, call->target->comm, call->row->any_action);
  return false;
}

static bool dump(Call *call, ReplyForm form, GError **error) {
  return check_supported(call, error) && check_target_again(call, error) && check_new_name(call, error) &&
         check_quota(call, error) && start_job(call, ENGINE_OPERATION__DUMP, form, error);
}

static bool proceed_dump(Call *call, GError **error) {
  return dump(call, REPLY_RESULT, error);
}

static bool proceed_start_dump(Call *call, GError **error) {
  return dump(call, REPLY_PATH, error);
}

/* Who it is, the bus said; whose it is, is looked at like that of any other target. */
static bool dump_self(Call *call, GError **error) {
  g_autoptr(Job) job = make_job(call, ENGINE_OPERATION__DUMP);

  job->is_self = true;
  if (!submit_job(call, job, REPLY_PATH, error))
    return false;
  (void)g_steal_pointer(&job);
  return true;
}

static bool proceed_dump_self(Call *call, GError **error) {
  return check_supported(call, error) && check_target_again(call, error) && check_new_name(call, error) &&
         check_quota(call, error) && dump_self(call, error);
}

static bool proceed_dump_self_to(Call *call, GError **error) {
  return check_supported(call, error) && check_target_again(call, error) && dump_self(call, error);
}

static bool proceed_dump_to(Call *call, GError **error) {
  return check_supported(call, error) && check_target_again(call, error) &&
         start_job(call, ENGINE_OPERATION__DUMP, REPLY_PATH, error);
}

/* What it restores shall be no more than the process that asks: the engine has a look at that. */
static bool proceed_restore_from(Call *call, GError **error) {
  g_autoptr(Target) process = call->caller->uid == 0 ? NULL : caller_pin(call->caller, error);
  g_autoptr(Job) job = NULL;

  if ((call->caller->uid != 0 && !process) || !check_supported(call, error))
    return false;
  job = make_job(call, ENGINE_OPERATION__RESTORE);
  if (process) {
    job->caller_pidfd = process->pidfd;
    process->pidfd = -EBADF;
  }
  if (!submit_job(call, job, REPLY_PATH, error))
    return false;
  (void)g_steal_pointer(&job);
  return true;
}

static bool proceed_register(Call *call, GError **error) {
  int fd = call->fd;

  call->fd = -EBADF;
  if (!applications_add(
          call->manager->applications, g_steal_pointer(&call->target), call->caller->uid, fd, error))
    return false;
  (void)sd_bus_reply_method_return(call->message, NULL);
  return true;
}

static bool proceed_pre_dump(Call *call, GError **error) {
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NOT_SUPPORTED, "%s is not supported by this version",
      call->handler->member);
  return false;
}

static bool proceed_explain(Call *call, GError **error) {
  return check_supported(call, error) && check_target_again(call, error) &&
         start_job(call, ENGINE_OPERATION__EXPLAIN, REPLY_FINDINGS, error);
}

static bool restore(Call *call, ReplyForm form, GError **error) {
  if (!check_supported(call, error))
    return false;
  if (!store_has(call->manager->store, call->owner, call->name)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT, "uid %u has no checkpoint '%s'",
        call->owner, call->name);
    return false;
  }
  if (!call->any && call->caller->uid != 0 && is_of_foreign_tree(call)) { /* replaced while polkit was asked */
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED,
        "Checkpoint '%s' has changed: it needs the action %s", call->name, call->row->any_action);
    return false;
  }
  return start_job(call, ENGINE_OPERATION__RESTORE, form, error);
}

static bool proceed_restore(Call *call, GError **error) {
  return restore(call, REPLY_RESULT, error);
}

static bool proceed_start_restore(Call *call, GError **error) {
  return restore(call, REPLY_PATH, error);
}

static bool proceed_check(Call *call, GError **error) {
  return start_job(call, ENGINE_OPERATION__CHECK, REPLY_CHECK, error);
}

/* The owner of a checkpoint that took dump-any to make may know that it is there. What is
 * in it would tell more of others' processes than was ever granted. */
static bool check_may_look_inside(const Call *call, GError **error) {
  if (call->any || call->caller->uid == 0 || !is_of_foreign_tree(call))
    return true;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__ACCESS_DENIED,
      "It was made with the action org.criu.Checkpoint.dump-any: only an administrator is told what is in it");
  return false;
}

/* Whatever keeps an engine from reading the images, what the service knows is answered. */
static bool proceed_describe(Call *call, GError **error) {
  g_autoptr(GVariant) note = store_describe(call->manager->store, call->owner, call->name, error);
  g_autoptr(Job) job = NULL;
  g_autoptr(GError) reason = NULL;
  int r;

  if (!note)
    return false;
  job = make_job(call, ENGINE_OPERATION__DESCRIBE);
  job->description = description_new(note);
  /* Now, so that it is this checkpoint also if another one takes its name before the job begins. */
  job->images_fd = store_open_images(call->manager->store, call->owner, call->name, &reason);
  if (job->images_fd >= 0 && check_may_look_inside(call, &reason) &&
      submit_job(call, job, REPLY_DESCRIPTION, &reason)) {
    (void)g_steal_pointer(&job);
    return true;
  }
  r = bus_job_reply_description(call->message, job->description, reason);
  return r >= 0 || daemon_error_set_errno(error, -r, "Cannot answer");
}

/* A dump that kept TCP connections left rules behind that drop their packets: with the checkpoint they lose their sense.
 * Taking them away is an engine's work. NULL: there are none. */
static Job *make_unlock_job(Call *call) {
  g_autoptr(GVariant) note = store_describe(call->manager->store, call->owner, call->name, NULL);
  const char *lock = NULL;
  Job *job;

  if (!note || !g_variant_lookup(note, "network-lock", "&s", &lock))
    return NULL;
  job = make_job(call, ENGINE_OPERATION__UNLOCK);
  g_free(job->name);
  job->name = g_strdup(lock);
  return job;
}

static bool proceed_remove(Call *call, GError **error) {
  g_autoptr(Job) unlock = NULL;

  if (queue_uses_name(call->manager->queue, call->owner, call->name)) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__BUSY, "A job works on checkpoint '%s'", call->name);
    return false;
  }
  unlock = make_unlock_job(call);
  if (unlock && !queue_check(call->manager->queue, unlock, error))
    return false;
  if (!store_remove(call->manager->store, call->owner, call->name, error))
    return false;
  if (unlock) {
    (void)submit_job(call, g_steal_pointer(&unlock), REPLY_NOTHING, error); /* was checked */
    return true;
  }
  (void)sd_bus_reply_method_return(call->message, NULL);
  return true;
}

typedef struct ListReply {
  sd_bus_message *message;
  int r;
} ListReply;

static void append_entry(ListReply *list, const char *contents, char type, const char *name, GVariant *values) {
  if (list->r >= 0)
    list->r = sd_bus_message_open_container(list->message, 'r', contents);
  if (list->r >= 0)
    list->r = sd_bus_message_append_basic(list->message, type, name);
  if (list->r >= 0)
    list->r = values_append(list->message, values);
  if (list->r >= 0)
    list->r = sd_bus_message_close_container(list->message);
}

static void append_checkpoint(const char *name, GVariant *description, void *userdata) {
  gboolean complete = FALSE;

  (void)g_variant_lookup(description, "complete", "b", &complete);
  if (complete)
    append_entry(userdata, "sa{sv}", 's', name, description);
}

static bool list_end(ListReply *list, GError **error) {
  if (list->r >= 0)
    list->r = sd_bus_message_close_container(list->message);
  if (list->r >= 0)
    list->r = sd_bus_send(NULL, list->message, NULL);
  return list->r >= 0 || daemon_error_set_errno(error, -list->r, "Cannot answer");
}

static bool proceed_list_checkpoints(Call *call, GError **error) {
  g_autoptr(sd_bus_message) reply = NULL;
  ListReply list = {};

  list.r = sd_bus_message_new_method_return(call->message, &reply);
  list.message = reply;
  if (list.r >= 0)
    list.r = sd_bus_message_open_container(reply, 'a', "(sa{sv})");
  store_list(call->manager->store, call->options.all ? (uid_t)-1 : call->owner, append_checkpoint, &list);
  return list_end(&list, error);
}

static bool proceed_list_jobs(Call *call, GError **error) {
  g_autoptr(sd_bus_message) reply = NULL;
  ListReply list = {};
  GHashTableIter iter;
  gpointer value;

  list.r = sd_bus_message_new_method_return(call->message, &reply);
  list.message = reply;
  if (list.r >= 0)
    list.r = sd_bus_message_open_container(reply, 'a', "(oa{sv})");
  g_hash_table_iter_init(&iter, call->manager->jobs);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    const BusJob *bus_job = value;
    g_autoptr(GVariant) properties = NULL;

    if (!call->options.all && bus_job->job->owner != call->owner)
      continue;
    properties = bus_job_describe(bus_job);
    append_entry(&list, "oa{sv}", 'o', bus_job->path, properties);
  }
  return list_end(&list, error);
}

/* An engine says: plugins are code, and none of it comes into this process. */
static bool proceed_list_plugins(Call *call, GError **error) {
  g_autoptr(Job) job = make_job(call, ENGINE_OPERATION__LIST_PLUGINS);

  job->description = description_new(NULL);
  if (!submit_job(call, job, REPLY_PLUGINS, error))
    return false;
  (void)g_steal_pointer(&job);
  return true;
}

static bool proceed_subscribe(Call *call, GError **error) {
  if (subscriber_add(call->manager, call->caller) < 0) {
    g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_LIMITS_EXCEEDED, "There are too many subscribers");
    return false;
  }
  (void)sd_bus_reply_method_return(call->message, NULL);
  return true;
}

static bool proceed_unsubscribe(Call *call, GError **error) {
  (void)subscriber_remove(call->manager, call->caller->name);
  (void)sd_bus_reply_method_return(call->message, NULL);
  return true;
}

static const CallHandler handlers[] = {
    {MANAGER_INTERFACE, "Dump", parse_dump, proceed_dump},
    {MANAGER_INTERFACE, "StartDump", parse_dump, proceed_start_dump},
    {MANAGER_INTERFACE, "StartDumpSelf", parse_dump_self, proceed_dump_self},
    {MANAGER_INTERFACE, "DumpSelfTo", parse_dump_self_to, proceed_dump_self_to},
    {MANAGER_INTERFACE, "DumpTo", parse_dump_to, proceed_dump_to},
    {MANAGER_INTERFACE, "RestoreFrom", parse_restore_from, proceed_restore_from},
    {MANAGER_INTERFACE, "RegisterApplication", parse_register, proceed_register},
    {MANAGER_INTERFACE, "PreDump", parse_dump, proceed_pre_dump},
    {MANAGER_INTERFACE, "StartPreDump", parse_dump, proceed_pre_dump},
    {MANAGER_INTERFACE, "Restore", parse_restore, proceed_restore},
    {MANAGER_INTERFACE, "StartRestore", parse_restore, proceed_start_restore},
    {MANAGER_INTERFACE, "Explain", parse_explain, proceed_explain},
    {MANAGER_INTERFACE, "Check", parse_check, proceed_check},
    {MANAGER_INTERFACE, "ListCheckpoints", parse_list_checkpoints, proceed_list_checkpoints},
    {MANAGER_INTERFACE, "DescribeCheckpoint", parse_checkpoint, proceed_describe},
    {MANAGER_INTERFACE, "RemoveCheckpoint", parse_checkpoint, proceed_remove},
    {MANAGER_INTERFACE, "ListJobs", parse_list_jobs, proceed_list_jobs},
    {MANAGER_INTERFACE, "ListPlugins", parse_nothing, proceed_list_plugins},
    {MANAGER_INTERFACE, "Subscribe", parse_nothing, proceed_subscribe},
    {MANAGER_INTERFACE, "Unsubscribe", parse_nothing, proceed_unsubscribe},
};

const CallHandler *manager_call_find(const char *member) {
  for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++)
    if (g_str_equal(handlers[i].member, member))
      return &handlers[i];
  return NULL;
}
