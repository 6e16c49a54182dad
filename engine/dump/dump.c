/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dump pipeline. Until job_commit() nothing has happened to the tree that thaw_tree() does not undo, and the kernel
 * and the agents undo it if we die. */
#include "dump.h"
#include "alike.h"
#include "collect.h"
#include "collect-net.h"
#include "compat.h"
#include "config.h"
#include "external-dump.h"
#include "landlock.h"
#include "tracers.h"
#include "overruns.h"
#include "plugin-stage.h"
#include "sharing.h"
#include "collect-seccomp.h"
#include "timens.pb-c.h"
#include "image.h"
#include "warden.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

typedef struct Dump {
  Job *job;
  FrozenTree *tree;
  Checkpoint *checkpoint;
  Collector *collector;
  LocksReader *locks;
  ExternalStage *external;
  PluginSet *plugins;
  NetPlaces *nets; /* network namespaces of the tree's own; NULL: none */
  MemoryStats memory;
  gint64 started;
  bool locks_network; /* whoever runs the job was told to */
  bool written;       /* the images are complete */
} Dump;

/* The engine ends with its job: the kernel is quicker in giving back thousands of objects and mappings. */
static void dump_clear(Dump *d) {
  alike_end();
  if (d->tree)
    frozen_tree_send_home(d->tree);
  if (!CHECKPOINTD_FREES_ALL) {
    warden_stop();
    return;
  }
  external_stage_free(d->external);
  collector_free(d->collector);
  net_places_free(d->nets);
  locks_free(d->locks);
  frozen_tree_free(d->tree);
  warden_stop();
  checkpoint_free(d->checkpoint);
}

static bool pid_is_pinned(pid_t pid, int pidfd, GError **error) {
  if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "Process %d does not exist (any more)", (int)pid);
}

/* A tree under seccomp is let go once, for the warden to take it. */
static FrozenTree *freeze_settled(Job *job, pid_t pid, GError **error) {
  for (;;) {
    FrozenTree *tree = freeze_tree(job, pid, error);
    if (!tree || !seccomp_suspend(tree) || warden_is_active())
      return tree;
    thaw_tree(job, tree, false);
    frozen_tree_free(tree);
    if (!warden_start(error))
      return NULL;
  }
}

static bool dump_freeze(Dump *d, pid_t pid, int pidfd, GError **error) {
  job_phase(d->job, "freeze");
  if (!pid_is_pinned(pid, pidfd, error))
    return false;
  FrozenHelpers helpers = helpers_start(pid);
  d->tree = freeze_settled(d->job, pid, error);
  helpers_wait(&helpers);
  if (d->tree)
    d->tree->helpers = helpers;
  else
    helpers_end(&helpers);
  /* the pidfd still answers: the frozen one is the one that was meant */
  if (!d->tree || !pid_is_pinned(pid, pidfd, error) || !authorize_tree(d->job, d->tree, error))
    return false;
  job_frozen(d->job);
  return true;
}

static bool collect_files(Dump *d, FrozenTask *task, GError **error) {
  const GArray *fds = task->fds; /* NULL: it could not be asked itself */
  if (task->headless)
    collector_alias_task(d->collector, task->pid, task->view);
  bool table = task->owner[SHARE_FILES] == task, memory = task->owner[SHARE_MEMORY] == task;
  if (!table)
    sharing_take_files(task, d->collector);
  const FrozenTask *parent = frozen_tree_find(d->tree, task->stat.ppid);
  pid_t has_them = parent && !parent->zombie ? parent->owner[SHARE_FILES]->view : 0;
  return (!table || collector_visit_task(d->collector, task->view, has_them, task->stat.comm, task->view_pidfd,
             fds ? (const CollectedFd *)(const void *)fds->data : NULL, fds ? fds->len : 0, task->model, error)) &&
         sharing_visit_tables(d->job, task, d->collector, error) && collect_fs(d->job, d->tree, task, d->collector, error) && (!memory || collect_mappings(d->job, task, d->collector, error));
}

/* Registers by ptrace while other threads read /proc. */
static bool collect_stopped(Dump *d, GError **error) {
  guint n = d->tree->tasks->len;
  g_autofree TaskFacts **facts = g_new(TaskFacts *, n);
  for (guint i = 0; i < n; i++) {
    FrozenTask *task = d->tree->tasks->pdata[i];
    task->facts.pid = task->view;
    task->facts.dead = task->zombie;
    facts[i] = &task->facts;
  }
  FactsReader *reader = facts_start(facts, n, tracers_count() > 1, alike_processes());
  bool ok = collect_registers(d->job, d->tree, d->checkpoint, error);
  facts_finish(reader);
  return ok;
}

/* It takes a moment until it is one, and is asked about when the agents are there. */
static bool check_stranger(FrozenTree *tree, GError **error) {
  const ProcStatus *root = &((FrozenTask *)tree->tasks->pdata[0])->facts.status;
  if (stranger_is(tree->helpers.stranger, root->uid[0], root->gid[0]))
    return true;
  stranger_free(tree->helpers.stranger);
  tree->helpers.stranger = NULL;
  return stranger_new(root->uid[0], root->gid[0], &tree->helpers.stranger, error);
}

static bool dump_collect(Dump *d, GError **error) {
  job_phase(d->job, "collect");
  d->checkpoint = checkpoint_new();
  if (!collect_stopped(d, error))
    return false;
  compat_check(d->job, d->tree);
  if (!check_stranger(d->tree, error) || !seccomp_collect(d->job, d->tree, d->checkpoint, error))
    return false;
  d->locks = locks_start(d->tree);
  sharing_find(d->tree);
  alike_find(d->job, d->tree);
  for (guint i = 0; i < d->tree->tasks->len; i++)
    if (!collect_task(d->job, d->tree, d->tree->tasks->pdata[i], error))
      return false;
  sharing_check(d->job, d->tree);
  collect_cgroups(d->job, d->tree, d->checkpoint);
  return true;
}

static bool dump_nets(Dump *d, GError **error) {
  GError *failure = NULL;
  d->nets = collect_net_places(d->tree, &failure);
  if (failure) {
    g_propagate_error(error, failure);
    return false;
  }
  collector_set_places(d->collector, d->nets);
  return !d->nets || collect_net(d->job, d->tree, d->nets, d->plugins, d->checkpoint, error);
}

static bool dump_objects(Dump *d, int images_fd, GError **error) {
  job_phase(d->job, "objects");
  if (collect_fuse(d->job, d->tree))
    return true; /* the blocker is named, and looking on would not end */
  d->collector = collector_new(d->job, d->checkpoint, images_fd);
  d->external = external_stage_new(d->job, d->collector, error);
  if (!d->external)
    return false;
  external_stage_set_plugins(d->external, d->plugins);
  collector_set_ask(d->collector, ask_thread, d->tree);
  if (!plugins_begin(d->plugins, 0, error))
    return false;
  if (!collect_namespaces(d->job, d->tree, d->collector, d->plugins, error) || !dump_nets(d, error))
    return false;
  for (guint i = 0; i < d->tree->tasks->len; i++) {
    FrozenTask *task = d->tree->tasks->pdata[i];
    if (!task->zombie && !collect_files(d, task, error))
      return false;
  }
  collect_undo(d->job, d->tree);
  if (!collector_finish(d->collector, error))
    return false;
  sharing_check_tables(d->job, d->tree, d->checkpoint);
  return plugins_finish(d->plugins, error) && collect_locks(d->job, d->tree, d->collector, d->locks, error);
}

static void add_timens(Checkpoint *c) {
  struct timespec monotonic, boottime;
  clock_gettime(CLOCK_MONOTONIC, &monotonic);
  clock_gettime(CLOCK_BOOTTIME, &boottime);
  TimensEntry *t = malloc(sizeof *t);
  timens_entry__init(t);
  t->monotonic = malloc(sizeof *t->monotonic);
  t->boottime = malloc(sizeof *t->boottime);
  timespec__init(t->monotonic);
  timespec__init(t->boottime);
  t->monotonic->tv_sec = (guint64)monotonic.tv_sec, t->monotonic->tv_nsec = (guint64)monotonic.tv_nsec;
  t->boottime->tv_sec = (guint64)boottime.tv_sec, t->boottime->tv_nsec = (guint64)boottime.tv_nsec;
  checkpoint_add_record(c, RECORD_TIMENS, &t->base, NULL);
}

static InventoryEntry *inventory_new(const Checkpoint *c, const EngineOptions *o) {
  InventoryEntry *i = malloc(sizeof *i);
  inventory_entry__init(i);
  i->img_version = 2;
  i->has_fdinfo_per_id = i->fdinfo_per_id = true;
  i->has_ns_per_id = i->ns_per_id = true;
  i->has_lsmtype = true;
  i->lsmtype = LSMTYPE__NO_LSM;
  i->has_tcp_close = i->tcp_close = o->tcp_close;
  const TaskKobjIdsEntry *root = ((Task *)c->tasks->pdata[0])->ids;
  TaskKobjIdsEntry *ids = i->root_ids = malloc(sizeof *ids);
  *ids = *root;
  ids->vm_id = ids->files_id = ids->fs_id = ids->sighand_id = 1;
  ns_set_own_ids(ids);
  return i;
}

static CkptCreator *creator_new(const Dump *d, const char *name) {
  const Task *root = d->checkpoint->tasks->pdata[0];
  CkptCreator *c = malloc(sizeof *c);
  ckpt_creator__init(c);
  struct utsname uts;
  c->program = strdup("checkpointd");
  c->version = strdup(CHECKPOINTD_VERSION);
  c->name = name ? strdup(name) : NULL;
  c->has_created_usec = true;
  c->created_usec = (guint64)g_get_real_time();
  const EngineCaller *caller = job_caller(d->job);
  c->has_uid = true;
  c->uid = caller ? caller->uid : getuid();
  c->kernel = uname(&uts) == 0 ? strdup(uts.release) : NULL;
  c->root_comm = strdup(root->core->tc->comm);
  c->has_root_pid = c->has_tasks = c->has_threads = c->has_pages = c->has_bytes = true;
  c->root_pid = root->pstree->pid;
  c->tasks = d->checkpoint->tasks->len;
  for (guint i = 0; i < d->checkpoint->tasks->len; i++)
    c->threads += ((Task *)d->checkpoint->tasks->pdata[i])->threads->len;
  c->pages = d->memory.pages_written;
  c->bytes = d->memory.bytes_written;
  return c;
}

static GPtrArray *alive_words(const FrozenTree *tree) {
  GPtrArray *words = g_ptr_array_new();
  for (guint i = 0; !warden_is_active() && i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    if (task->injection && task->owner[SHARE_MEMORY] == task)
      g_ptr_array_add(words, region_alive(injection_region(task->injection)));
  }
  return words;
}

static bool dump_write(Dump *d, const char *name, GError **error) {
  job_phase(d->job, "memory");
  if (!plugin_stage_memory(d->plugins, d->tree, error) || !dump_memory(d->job, d->tree, d->checkpoint, d->collector, &d->memory, error))
    return false;
  sharing_copy_memory(d->tree);
  const pid_t root = ((FrozenTask *)d->tree->tasks->pdata[0])->pid;
  if (!plugins_moment(d->plugins, CHECKPOINT_MOMENT_DUMPED, root, error))
    return false;
  plugins_store(d->plugins, d->checkpoint);
  job_phase(d->job, "write");
  add_timens(d->checkpoint);
  d->checkpoint->inventory = inventory_new(d->checkpoint, job_options(d->job));
  d->checkpoint->creator = creator_new(d, name);
  const EngineOptions *o = job_options(d->job);
  collector_set_alive(d->collector, alive_words(d->tree));
  if (!collector_seal(d->collector, !o->leave_running && !o->leave_stopped, error))
    return false;
  guint64 written = 0;
  if (!job_poll(d->job, error) || !overruns_take(d->job, d->tree, error) || !image_store(d->checkpoint, job_images_fd(d->job), job_options(d->job)->durable, &written, error))
    return false;
  d->memory.bytes_written += written;
  return true;
}

/* Besides what the engine does by itself: a firewall of somebody else's may stand before the connections. */
static bool dump_lock_network(Dump *d, pid_t root, GError **error) {
  d->locks_network = job_options(d->job)->tcp_established;
  return !d->locks_network || job_stage(d->job, "network-lock", root, error);
}

/* Before the tree goes on; whatever becomes of it, it does. */
static void dump_unlock_network(Dump *d) {
  g_autoptr(GError) error = NULL;
  const FrozenTask *root = d->tree && d->tree->tasks->len ? d->tree->tasks->pdata[0] : NULL;
  if (d->locks_network && root && !job_stage(d->job, "network-unlock", root->pid, &error))
    job_log(d->job, 3, "%s", error->message);
}

static void dump_finish(Dump *d) {
  const EngineOptions *o = job_options(d->job);
  if (!o->leave_running && !o->leave_stopped) {
    kill_tree(d->tree);
    collector_end(d->collector, true);
    return;
  }
  collector_end(d->collector, false);
  dump_unlock_network(d);
  thaw_tree(d->job, d->tree, o->leave_stopped);
}

static void dump_results(const Dump *d) {
  guint threads = 0;
  for (guint i = 0; i < d->checkpoint->tasks->len; i++)
    threads += ((Task *)d->checkpoint->tasks->pdata[i])->threads->len;
  const Task *root = d->checkpoint->tasks->pdata[0];
  job_result_u64(d->job, "pid", root->pstree->pid);
  job_result_text(d->job, "comm", root->core->tc->comm);
  job_result_u64(d->job, "tasks", d->checkpoint->tasks->len);
  job_result_u64(d->job, "threads", threads);
  job_result_u64(d->job, "files", d->checkpoint->files->len);
  job_result_u64(d->job, "pages", d->memory.pages_written);
  job_result_u64(d->job, "pages-skipped", d->memory.pages_zero);
  job_result_u64(d->job, "bytes", d->memory.bytes_written);
  job_result_u64(d->job, "frozen-usec", (guint64)(d->tree->thawed_at - d->tree->frozen_at));
  job_result_u64(d->job, "total-usec", (guint64)(g_get_monotonic_time() - d->started));
}

/* Collects everything; blockers are left in the job. */
static bool dump_look(Dump *d, pid_t pid, int pidfd, int images_fd, GError **error) {
  bool dumps = images_fd >= 0; /* an explanation has no effects */
  d->plugins = plugins_load(d->job, dumps ? CHECKPOINT_STAGE_DUMP : CHECKPOINT_STAGE_EXPLAIN, NULL, error);
  if (!d->plugins || (dumps && !plugin_stage_pause(d->plugins, pid, error)))
    return false;
  return dump_freeze(d, pid, pidfd, error) &&
         (!dumps || (dump_lock_network(d, pid, error) &&
                        plugin_stage_tell(d->plugins, d->tree, CHECKPOINT_MOMENT_CHECKPOINT, error))) &&
         dump_collect(d, error) && collect_by_agents(d->job, d->tree, error) && dump_objects(d, images_fd, error);
}

#define PF_EXITING_ 0x4u /* include/linux/sched.h */
#define DEAD_LOOKS 5
#define DEAD_PAUSE_USEC 4000

static const FrozenTask *find_dead(const FrozenTree *tree) {
  for (guint i = 0; tree && i < tree->tasks->len; i++) {
    const FrozenTask *task = tree->tasks->pdata[i];
    ProcStat stat;
    if (!task->zombie && (!proc_stat(task->view, &stat, NULL) || strchr("ZX", stat.state) || stat.flags & PF_EXITING_))
      return task;
  }
  return NULL;
}

/* Who is killed in the middle is missed in many ways, most of which tell nobody anything; some before it has begun to end. */
static void name_the_dead(const FrozenTree *tree, GError **failure) {
  const FrozenTask *dead = find_dead(tree);
  for (int i = 1; !dead && tree && i < DEAD_LOOKS && engine_error_code(*failure) == ENGINE_ERROR_CODE__FAILED; i++) {
    g_usleep(DEAD_PAUSE_USEC);
    dead = find_dead(tree);
  }
  if (!dead)
    return;
  GError *named = NULL;
  engine_fail(&named, ENGINE_ERROR_CODE__NO_SUCH_PROCESS, "pid %d (%s) has ended during the checkpoint: %s", (int)dead->pid, dead->stat.comm,
      (*failure)->message);
  g_error_free(*failure);
  *failure = named;
}

/* Plugins hear of the end while the tree still stands: what they paused has to go on with it. */
static bool dump_end(Dump *d, GError *failure, GError **error) {
  if (failure && engine_error_code(failure) != ENGINE_ERROR_CODE__NO_SUCH_PROCESS)
    name_the_dead(d->tree, &failure);
  plugins_end(g_steal_pointer(&d->plugins), failure);
  if (failure && d->written)
    (void)unlinkat(job_images_fd(d->job), "inventory.img", 0); /* a failed dump leaves no checkpoint */
  if (failure && d->collector)
    collector_end(d->collector, false);
  if (failure)
    dump_unlock_network(d);
  if (failure && d->tree)
    thaw_tree(d->job, d->tree, false);
  if (failure)
    g_propagate_error(error, failure);
  return !failure;
}

/* While the tree stands still: a snapshot of its files fits the images now. */
static bool dump_tell_written(Dump *d, pid_t root, GError **error) {
  d->written = true;
  return job_stage(d->job, "post-dump", root, error);
}

bool dump_run(Job *job, pid_t pid, int pidfd, const char *name, GError **error) {
  Dump d = {.job = job, .started = g_get_monotonic_time()};
  GError *failure = NULL;
  (void)(dump_look(&d, pid, pidfd, job_images_fd(job), &failure) && job_check_findings(job, &failure) &&
         dump_write(&d, name, &failure) && dump_tell_written(&d, pid, &failure));
  if (!failure)
    job_commit(job);
  bool ok = dump_end(&d, failure, error);
  if (ok) {
    dump_finish(&d);
    dump_results(&d);
  }
  dump_clear(&d);
  return ok;
}

bool dump_explain(Job *job, pid_t pid, int pidfd, GError **error) {
  Dump d = {.job = job, .started = g_get_monotonic_time()};
  GError *failure = NULL;
  (void)dump_look(&d, pid, pidfd, -1, &failure);
  job_show_notes(job);
  bool ok = dump_end(&d, failure, error);
  if (ok)
    thaw_tree(job, d.tree, false);
  dump_clear(&d);
  return ok;
}
