/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stats.h"
#include "stats.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SERVICE_MAGIC 0x55105940
#define STATS_MAGIC 0x57093306

void criu_times_phase(CriuTimes *times, const char *phase) {
  gint64 now = g_get_monotonic_time();
  if (!times->start)
    times->start = now;
  if (!strcmp(phase, "freeze"))
    times->freeze = now;
  else if (!strcmp(phase, "collect"))
    times->collect = now;
  else if (!strcmp(phase, "memory") || !strcmp(phase, "restore-memory"))
    times->memory = now;
  else if (times->memory && !times->memory_end)
    times->memory_end = now;
  if (!strcmp(phase, "release"))
    times->thaw = now;
}

void criu_times_end(CriuTimes *times) {
  times->end = g_get_monotonic_time();
}

/* From one moment to the next one that was seen. */
static guint32 span(gint64 from, gint64 to) {
  return from && to > from ? (guint32)MIN(to - from, (gint64)G_MAXUINT32) : 0;
}

static guint64 result_u64(const Job *job, const char *key, guint64 otherwise) {
  for (size_t i = 0; i < job_n_results(job); i++) {
    const EngineValue *value = job_results(job)[i];
    if (!strcmp(value->key, key) && value->has_u64)
      return value->u64;
  }
  return otherwise;
}

static int write_entry(int dir_fd, const char *name, const StatsEntry *entry) {
  size_t size = stats_entry__get_packed_size(entry);
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  const guint32 head[] = {GUINT32_TO_LE(SERVICE_MAGIC), GUINT32_TO_LE(STATS_MAGIC), GUINT32_TO_LE((guint32)size)};
  g_byte_array_append(bytes, (const guint8 *)head, sizeof head);
  g_byte_array_set_size(bytes, (guint)(sizeof head + size));
  (void)stats_entry__pack(entry, bytes->data + sizeof head);
  int fd = openat(dir_fd, name, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0)
    return -errno;
  ssize_t n = write(fd, bytes->data, bytes->len);
  int status = n < 0 ? -errno : n == (ssize_t)bytes->len ? 0 : -EIO;
  (void)close(fd);
  return status;
}

static void show_dump(const DumpStatsEntry *d, const CriuTimes *times) {
  g_print("Displaying dump stats:\n"
          "Freezing time: %u us\n"
          "Frozen time: %u us\n"
          "Memory dump time: %u us\n"
          "Memory write time: %u us\n",
      d->freezing_time, d->frozen_time, d->memdump_time, d->memwrite_time);
  g_print("Dump time: %u us\n", span(times->start, times->end));
  g_print("Memory pages scanned: %" G_GUINT64_FORMAT "\n"
          "Memory pages skipped from parent: %" G_GUINT64_FORMAT "\n"
          "Memory pages written: %" G_GUINT64_FORMAT "\n"
          "Lazy memory pages: %" G_GUINT64_FORMAT "\n",
      d->pages_scanned, d->pages_skipped_parent, d->pages_written, d->pages_lazy);
}

int criu_stats_write_dump(int dir_fd, const Job *job, const CriuTimes *times, bool show) {
  DumpStatsEntry dump = DUMP_STATS_ENTRY__INIT;
  StatsEntry entry = STATS_ENTRY__INIT;
  gint64 thaw = times->thaw ? times->thaw : times->end;
  dump.freezing_time = span(times->freeze, times->collect);
  dump.frozen_time = (guint32)result_u64(job, "frozen-usec", span(times->freeze, thaw));
  dump.memdump_time = span(times->memory, times->memory_end);
  /* One pass: pages go from the task straight into the file. */
  dump.memwrite_time = dump.memdump_time;
  dump.pages_written = result_u64(job, "pages", 0);
  dump.pages_scanned = result_u64(job, "pages-scanned", dump.pages_written + result_u64(job, "pages-skipped", 0));
  entry.dump = &dump;
  if (show)
    show_dump(&dump, times);
  return write_entry(dir_fd, "stats-dump", &entry);
}

int criu_stats_write_restore(int dir_fd, const Job *job, const CriuTimes *times, bool show) {
  RestoreStatsEntry restore = RESTORE_STATS_ENTRY__INIT;
  StatsEntry entry = STATS_ENTRY__INIT;
  restore.forking_time = span(times->start, times->memory);
  restore.restore_time = span(times->start, times->end);
  restore.has_pages_restored = true;
  restore.pages_restored = result_u64(job, "pages", 0);
  entry.restore = &restore;
  if (show)
    g_print("Displaying restore stats:\n"
            "Pages compared: 0\nPages skipped COW: 0\n"
            "Pages restored: %" G_GUINT64_FORMAT "\n"
            "Restore time: %u us\nForking time: %u us\n",
        restore.pages_restored, restore.restore_time, restore.forking_time);
  return write_entry(dir_fd, "stats-restore", &entry);
}
