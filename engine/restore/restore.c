/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The restore pipeline. Tasks that exist but are not released die with us. */
#include "restore.h"
#include "config.h"
#include "guardian.h"
#include "image.h"
#include "stages.h"
#include "page-check.h"
#include "untrusted.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void close_all(GHashTable *fds) {
  GHashTableIter iter;
  gpointer value;
  if (!fds)
    return;
  g_hash_table_iter_init(&iter, fds);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    (void)close(GPOINTER_TO_INT(value) - 1);
  g_hash_table_unref(fds);
}

static void restore_clear(Restore *r) {
  (void)verifier_join(r->verifier, NULL); /* there is an error already */
  region_free(r->region);
  foreign_vdso_free(r->foreign_vdso);
  networks_free(r->nets);
  if (r->null_fd > 0)
    (void)close(r->null_fd - 1);
  restorer_free(r->restorer);
  namespaces_clear(r);
  external_return_free(r->external);
  plugin_return_free(r->plugin_return);
  close_all(r->pages_fds);
  if (!CHECKPOINTD_FREES_ALL)
    return; /* as after a dump: what is left is memory, and the engine ends with its job */
  plan_free(r->plan);
  g_clear_pointer(&r->programs, g_ptr_array_unref);
  g_clear_pointer(&r->made_groups, g_ptr_array_unref);
  checkpoint_free(r->checkpoint);
}

typedef struct StageEntry {
  PlanTask *task;
  Program *program;
  LoadedProgram loaded;
  size_t counted; /* ops whose bytes are in the progress */
} StageEntry;

/* Bytes that preadv(2) ops have brought in so far; results are zero until an op has run. */
static void count_bytes(Restore *r, StageEntry *e) {
  size_t n = program_n_ops(e->program);
  for (; e->counted < n; e->counted++) {
    const volatile int64_t *result = &e->loaded.results[e->counted];
    if (!program_op_reads(e->program, e->counted))
      continue;
    if (*result <= 0)
      return;
    job_add_bytes(r->job, (guint64)*result);
  }
}

static bool stage_wait(Restore *r, StageEntry *e, GError **error) {
  for (bool done = false; !done;) {
    if (!region_wait_moment(r->region, e->task->lane, e->task->pid, &done, error))
      return false;
    count_bytes(r, e);
    if (!done && !job_poll(r->job, error))
      return false;
  }
  return true;
}

static void stage_entry_clear(void *p) {
  program_free(((StageEntry *)p)->program);
}

static bool stage_start(Restore *r, PlanTask *t, GArray *entries, BuildFunc build, GError **error) {
  StageEntry e = {.task = t, .program = program_new()};
  if (!build(r, t, e.program, error)) {
    program_free(e.program);
    return false;
  }
  if (!program_n_ops(e.program)) {
    program_free(e.program);
    return true;
  }
  bool ok = region_load(r->region, e.program, NULL, &e.loaded, error);
  g_array_append_val(entries, e);
  if (ok)
    region_start(r->region, t->lane, &e.loaded);
  return ok;
}

bool stage_run(Restore *r, GPtrArray *tasks, const char *name, BuildFunc build, GError **error) {
  return stage_run_meanwhile(r, tasks, name, build, NULL, error);
}

bool stage_run_meanwhile(Restore *r, GPtrArray *tasks, const char *name, BuildFunc build, MeanwhileFunc meanwhile, GError **error) {
  g_autoptr(GArray) entries = g_array_new(FALSE, TRUE, sizeof(StageEntry));
  g_array_set_clear_func(entries, stage_entry_clear);
  size_t mark = region_mark(r->region);
  for (guint i = 0; i < tasks->len; i++)
    if (!stage_start(r, tasks->pdata[i], entries, build, error))
      return false;
  if (meanwhile && !meanwhile(r, error))
    return false;
  bool clones = false;
  for (guint i = 0; i < entries->len; i++) {
    StageEntry *e = &g_array_index(entries, StageEntry, i);
    clones |= program_has_clones(e->program);
    g_autofree char *who = g_strdup_printf("pid %d (%s)", (int)e->task->pid, name);
    if (!stage_wait(r, e, error) || !region_check(e->task->lane, &e->loaded, who, error))
      return false;
  }
  if (!clones)
    region_release(r->region, mark); /* all programs have run */
  return job_poll(r->job, error);
}

int restore_fd(Restore *r, guint32 file_id, GError **error) {
  return r->restorer ? restorer_fd_of(r->restorer, file_id, error) : (int)file_id;
}

static bool restore_load(Restore *r, GError **error) {
  job_phase(r->job, "restore-load");
  r->checkpoint = image_load(job_images_fd(r->job), error);
  if (!r->checkpoint)
    return false;
  if (job_options(r->job)->untrusted_images) {
    g_autoptr(UntrustedRights) rights = untrusted_rights_of_self();
    if (!untrusted_check(r->checkpoint, rights, error))
      return false;
  }
  if (!details_check(r->checkpoint, error) || !foreign_vdso_look(r, error))
    return false;
  EngineOptions options = *job_options(r->job);
  if (restorer_needs_session(r->job))
    options.shell_job = false; /* the session of the caller is not on the terminal that was given */
  r->plan = plan_new(r->checkpoint, &options, foreign_vdso_room(r->foreign_vdso), error);
  return r->plan && foreign_vdso_prepare(r, error);
}

static guint64 total_bytes(const Plan *plan) {
  guint64 pages = 0;
  for (guint i = 0; i < plan->tasks->len; i++) {
    const PlanTask *t = plan->tasks->pdata[i];
    pages += t->task && t->owner[SHARE_MEMORY] == t ? page_set_n_present(t->task->pages) : 0;
  }
  return pages * 4096;
}

/* Descriptors for mappings, directories and programs are opened before the root exists, so that it has them. */
static bool open_for_task(Restore *r, const Task *t, GError **error) {
  if (!t->mm)
    return true;
  for (size_t i = 0; i < t->mm->n_vmas; i++) {
    const VmaEntry *v = t->mm->vmas[i];
    guint64 pgoff;
    if ((v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_AREA_SOCKET)) && mm_file_fd(r, t, v, &pgoff, error) < 0)
      return false;
    if ((v->status & VMA_ANON_SHARED) && !(v->status & VMA_AREA_SYSVIPC) && restorer_anon_shared(r->restorer, v->shmid, error) < 0)
      return false;
  }
  for (guint i = 0; i < t->threads->len; i++) {
    const CkptThread *x = ((const Thread *)t->threads->pdata[i])->extra;
    for (size_t k = 0; x && x->table && k < x->table->n_fds; k++)
      if (restore_fd(r, x->table->fds[k]->file_id, error) < 0)
        return false;
    if (x && x->fs && (restore_fd(r, x->fs->cwd_id, error) < 0 || restore_fd(r, x->fs->root_id, error) < 0))
      return false;
  }
  return restore_fd(r, t->mm->exe_file_id, error) >= 0 && restore_fd(r, t->fs->cwd_id, error) >= 0 &&
         restore_fd(r, t->fs->root_id, error) >= 0;
}

static bool restore_files(Restore *r, GError **error) {
  job_phase(r->job, "restore-files");
  job_set_total(r->job, total_bytes(r->plan));
  r->restorer = restorer_new(r->job, r->checkpoint, job_images_fd(r->job));
  r->external = external_return_new(r->job, r->restorer, error);
  if (!r->external)
    return false;
  r->plugin_return = plugin_return_new(r->plugins, r->restorer);
  external_return_set_plugins(r->external, r->plugin_return);
  if (!plugins_begin(r->plugins, r->checkpoint->plugin_objects->len, error) || !networks_restore(r, error) || !namespaces_make(r, error) ||
      !plugin_return_prepare(r->plugin_return, error) || !restorer_open_all(r->restorer, error) || !locks_take(r, error))
    return false;
  for (guint i = 0; i < r->checkpoint->tasks->len; i++)
    if (!open_for_task(r, r->checkpoint->tasks->pdata[i], error))
      return false;
  r->pages_fds = g_hash_table_new(NULL, NULL);
  if (!mm_open_pages(r, error) || !plugin_return_fill(r->plugin_return, error))
    return false;
  job_set_total(r->job, total_bytes(r->plan) + plugin_return_bytes(r->plugin_return));
  return plugins_finish(r->plugins, error);
}

static bool make_region(Restore *r, GError **error) {
  void *at = mmap((void *)(uintptr_t)r->plan->region_start, r->plan->region_size, PROT_READ | PROT_WRITE | PROT_EXEC,
      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (at == MAP_FAILED)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot map the agents' region");
  r->region = region_new(at, r->plan->region_start, r->plan->region_size);
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (i && !region_add_word(r->region))
      return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "The agents' region is full");
    t->lane = region_add_lane(r->region);
    for (guint k = 0; k < t->threads->len; k++)
      g_array_index(t->threads, PlanThread, k).lane = k ? region_add_lane(r->region) : t->lane;
  }
  return true;
}

/* Where there is a network namespace, the scripts heard of it before its sockets were made. */
static bool tell_root(Restore *r, GError **error) {
  return (r->nets || job_stage(r->job, "setup-namespaces", r->root, error)) && job_stage(r->job, "post-setup-namespaces", r->root, error);
}

/* Waves: a task, its early children, their memory, then the children that inherit it. */
static bool restore_tasks(Restore *r, GError **error) {
  job_phase(r->job, "restore-tasks");
  if (!make_region(r, error) || !skeleton_make_root(r, error) || !tell_root(r, error))
    return false;
  g_autoptr(GPtrArray) wave = g_ptr_array_new();
  g_ptr_array_add(wave, r->plan->tasks->pdata[0]);
  while (wave->len) {
    for (guint i = 0; i < wave->len; i++) { /* grows */
      g_autoptr(GPtrArray) one = g_ptr_array_new();
      PlanTask *t = wave->pdata[i];
      g_ptr_array_add(one, t);
      if ((!t->zombie || t->setsid) && !stage_run(r, one, "making its children", skeleton_build_early, error))
        return false;
      if (t->brief && !skeleton_pass_on(r, t, error))
        return false;
      for (guint k = 0; k < t->children->len; k++)
        if (((PlanTask *)t->children->pdata[k])->created)
          g_ptr_array_add(wave, t->children->pdata[k]);
    }
    g_autoptr(GPtrArray) living = g_ptr_array_new();
    for (guint i = 0; i < wave->len; i++)
      if (((PlanTask *)wave->pdata[i])->task && !((PlanTask *)wave->pdata[i])->zombie)
        g_ptr_array_add(living, wave->pdata[i]);
    if (!stage_run_meanwhile(r, living, "memory", mm_build, threads_prepare, error) || !stage_run(r, living, "making its children", skeleton_build_late, error))
      return false;
    g_ptr_array_set_size(wave, 0);
    for (guint i = 0; i < living->len; i++) {
      PlanTask *t = living->pdata[i];
      for (guint k = 0; k < t->children->len; k++)
        if (((PlanTask *)t->children->pdata[k])->late)
          g_ptr_array_add(wave, t->children->pdata[k]);
    }
  }
  return true;
}

static GPtrArray *select_tasks(const Restore *r, bool zombies, bool helpers) {
  GPtrArray *tasks = g_ptr_array_new();
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if ((zombies || !t->zombie) && (helpers || !t->helper))
      g_ptr_array_add(tasks, t);
  }
  return tasks;
}

/* Of helpers for groups; those who end soon can be it, too. */
static GPtrArray *select_makers(const Restore *r) {
  GPtrArray *makers = g_ptr_array_new();
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    if (t->helper && !t->setsid && !t->brief && t->parent && !g_ptr_array_find(makers, t->parent, NULL))
      g_ptr_array_add(makers, t->parent);
  }
  return makers;
}

static bool restore_groups(Restore *r, GError **error) {
  g_autoptr(GPtrArray) living = select_tasks(r, false, false), leaders = g_ptr_array_new(), members = g_ptr_array_new();
  g_autoptr(GPtrArray) makers = select_makers(r);
  if (!stage_run(r, makers, "helpers", skeleton_build_helpers, error))
    return false;
  for (guint i = 0; i < r->plan->tasks->len; i++) {
    PlanTask *t = r->plan->tasks->pdata[i];
    if (!t->brief)
      g_ptr_array_add(t->pgid == t->pid ? leaders : members, t);
  }
  return stage_run(r, leaders, "process group", skeleton_build_group, error) &&
         stage_run(r, members, "process group", skeleton_build_group, error) &&
         stage_run(r, living, "terminals", terminals_build, error) && skeleton_end_dead(r, error);
}

static bool restore_rest(Restore *r, GError **error) {
  g_autoptr(GPtrArray) living = select_tasks(r, false, false);
  if (!cgroup_move_tasks(r, error))
    return false;
  if (!stage_run(r, living, "memory", mm_build_finish, error) || !restorer_finish(r->restorer, error) || !stage_run(r, living, "files", files_build, error) || (r->plan->shares && !stage_run(r, living, "file locks", locks_build_shared, error)) ||
      !stage_run_meanwhile(r, living, "threads", threads_build_clones, threads_begin, error) || !threads_await_begun(r, error) || !stage_run(r, living, "files of threads", files_build_of_threads, error) || !cgroup_move_threads(r, error))
    return false;
  for (guint i = 0; i < living->len; i++)
    if (!attributes_write_proc(r, living->pdata[i], error))
      return false;
  return stage_run(r, living, "attributes", attributes_build, error) && rings_run(r, error) && threads_run(r, error) && rings_fill_late(r, error) && external_return_converse(r->external, error);
}

static void make_guardian(Restore *r) {
  if (r->plan->tasks->len < 2)
    return; /* of one process the kernel kills all or nothing */
  g_autofree pid_t *pids = g_new(pid_t, r->plan->tasks->len);
  for (guint i = 0; i < r->plan->tasks->len; i++)
    pids[i] = ((PlanTask *)r->plan->tasks->pdata[i])->pid;
  r->guardian = guardian_new(pids, r->plan->tasks->len);
}

static void restore_results(const Restore *r, gint64 started) {
  guint threads = 0;
  for (guint i = 0; i < r->checkpoint->tasks->len; i++)
    threads += ((Task *)r->checkpoint->tasks->pdata[i])->threads->len;
  job_result_u64(r->job, "pid", (guint64)r->root);
  job_result_u64(r->job, "tasks", r->checkpoint->tasks->len);
  job_result_u64(r->job, "threads", threads);
  job_result_u64(r->job, "pages", r->pages_restored);
  job_result_u64(r->job, "pages-shared", r->pages_shared);
  job_result_u64(r->job, "bytes", r->pages_restored * 4096);
  job_result_u64(r->job, "total-usec", (guint64)(g_get_monotonic_time() - started));
}

static bool tell_resume(Restore *r, GError **error) {
  for (guint i = 0; plugins_count(r->plugins) && i < r->plan->tasks->len; i++) {
    const PlanTask *t = r->plan->tasks->pdata[i];
    if (!t->zombie && !t->helper && !plugins_moment(r->plugins, CHECKPOINT_MOMENT_RESUME, t->pid, error))
      return false;
  }
  return true;
}

static bool restore_build(Restore *r, GError **error) {
  if (!restore_load(r, error))
    return false;
  r->plugins = plugins_load(r->job, CHECKPOINT_STAGE_RESTORE, r->checkpoint, error);
  if (!r->plugins || !plugins_moment(r->plugins, CHECKPOINT_MOMENT_BEGIN, 0, error) || !skeleton_check_pids(r, error) ||
      !restore_files(r, error))
    return false;
  r->verifier = verifier_start(r->checkpoint, job_images_fd(r->job));
  if (!restore_tasks(r, error) || !plugins_moment(r->plugins, CHECKPOINT_MOMENT_FORKED, r->root, error) || !restore_groups(r, error) || !restore_rest(r, error) || !verifier_join(g_steal_pointer(&r->verifier), error))
    return false;
  if (!tell_resume(r, error) || !job_stage(r->job, "post-restore", r->root, error))
    return false;
  job_phase(r->job, "restore-release");
  make_guardian(r);
  return release_tree(r, error);
}

bool restore_run(Job *job, pid_t *ret_pid, GError **error) {
  gint64 started = g_get_monotonic_time();
  Restore r = {.job = job, .programs = g_ptr_array_new_with_free_func((GDestroyNotify)program_free)};
  int subreaper = 0;
  (void)prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  GError *failure = NULL;
  bool ok = restore_build(&r, &failure);
  if (!ok)
    skeleton_kill_all(&r);
  if (!ok)
    cgroup_remove_made(&r);
  plugins_end(g_steal_pointer(&r.plugins), failure);
  if (failure)
    g_propagate_error(error, failure);
  (void)prctl(PR_SET_CHILD_SUBREAPER, (unsigned long)subreaper);
  guardian_disarm(r.guardian);
  if (ok) {
    restorer_keep(r.restorer);
    *ret_pid = r.root;
    restore_results(&r, started);
  }
  restore_clear(&r);
  return ok;
}

static void print_task(const PlanTask *t, FILE *out) {
  (void)fprintf(out, "task %d: parent %d, session %d, group %d, %u threads%s%s%s%s\n", (int)t->pid, t->parent ? (int)t->parent->pid : 0,
      (int)t->sid, (int)t->pgid, t->threads->len, t->setsid ? ", setsid" : "", t->late ? ", inherits memory" : "",
      t->zombie ? ", zombie" : "", t->helper ? ", helper" : "");
}

static bool print_programs(Restore *r, PlanTask *t, FILE *out, GError **error) {
  static const struct {
    const char *name;
    BuildFunc build;
  } stages[] = {{"children", skeleton_build_early}, {"memory", mm_build}, {"children that inherit it", skeleton_build_late},
      {"process group", skeleton_build_group}, {"memory, at last", mm_build_finish}, {"files (numbers are file ids)", files_build},
      {"threads", threads_build_clones}, {"attributes", attributes_build}};
  for (size_t i = 0; i < G_N_ELEMENTS(stages); i++) {
    g_autoptr(Program) p = program_new();
    if (!stages[i].build(r, t, p, error))
      return false;
    if (program_n_ops(p))
      (void)fprintf(out, "  %s\n", stages[i].name);
    program_print(p, out);
  }
  return threads_print(r, t, out, error);
}

bool restore_plan_print(Job *job, FILE *out, GError **error) {
  Restore r = {.job = job, .programs = g_ptr_array_new_with_free_func((GDestroyNotify)program_free)};
  r.pages_fds = g_hash_table_new(NULL, NULL);
  bool ok = restore_load(&r, error) && make_region(&r, error) && mm_open_pages(&r, error);
  if (ok)
    (void)fprintf(out, "agents at 0x%" G_GINT64_MODIFIER "x, %" G_GUINT64_FORMAT " KiB\n", r.plan->region_start, r.plan->region_size / 1024);
  for (guint i = 0; ok && i < r.plan->tasks->len; i++) {
    PlanTask *t = r.plan->tasks->pdata[i];
    print_task(t, out);
    ok = t->zombie || t->helper || print_programs(&r, t, out, error);
  }
  restore_clear(&r);
  return ok;
}
