// SPDX-License-Identifier: LGPL-2.1-or-later
#include "progress.h"

#include "format.h"
#include "value.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BAR_CELLS_MIN 8
#define BAR_CELLS_MAX 32
#define BAR_BESIDES 26 // the stage, the ends of the bar, and the per cent
#define LINE_INTERVAL_USEC (2 * G_USEC_PER_SEC)

struct Progress {
  bool silent;
  bool terminal;
  bool drawn;
  char *phase;      // the last one told in a plain line
  gint64 last_usec; // when
};

Progress *progress_new(bool silent) {
  Progress *progress = g_new0(Progress, 1);
  progress->silent = silent;
  progress->terminal = isatty(STDERR_FILENO);
  return progress;
}

void progress_free(Progress *progress) {
  if (!progress)
    return;
  progress_end(progress);
  g_free(progress->phase);
  g_free(progress);
}

static int terminal_width(void) {
  struct winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
    return 80;
  return size.ws_col;
}

static void append_bar(GString *out, double fraction, int width, bool unicode) {
  static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  int parts = (int)(CLAMP(fraction, 0.0, 1.0) * width * 8), cells = parts / 8;
  g_string_append_c(out, unicode ? ' ' : '[');
  for (int i = 0; i < cells; i++)
    g_string_append(out, unicode ? "█" : "#");
  if (unicode && parts % 8 > 0) {
    g_string_append(out, eighths[parts % 8]);
    cells++;
  }
  for (int i = cells; i < width; i++)
    g_string_append(out, unicode ? "░" : "-");
  g_string_append_c(out, unicode ? ' ' : ']');
  g_string_append_printf(out, " %3d %%", (int)(CLAMP(fraction, 0.0, 1.0) * 100));
}

// "memory", or the state where there is no phase yet.
static const char *phase_of(GVariant *job) {
  const char *state = value_text(job, "State"), *phase = value_text(job, "Phase");
  return *phase == '\0' || g_str_equal(state, "cancelling") || g_str_equal(state, "queued") ? state : phase;
}

// Micro-seconds to go, 0 if unknown.
static uint64_t time_left(GVariant *job) {
  uint64_t done = value_u64(job, "BytesDone", 0), total = value_u64(job, "BytesTotal", 0),
           rate = value_u64(job, "Rate", 0);
  uint64_t end = value_u64(job, "ExpectedEndTime", 0), now = (uint64_t)g_get_real_time();
  if (end > now)
    return end - now;
  return rate > 0 && total > done ? (uint64_t)((double)(total - done) / (double)rate * 1e6) : 0;
}

static void append_figures(GString *out, GVariant *job) {
  uint64_t done = value_u64(job, "BytesDone", 0), total = value_u64(job, "BytesTotal", 0),
           rate = value_u64(job, "Rate", 0);
  uint64_t left = time_left(job);
  if (total > 0) {
    g_autofree char *d = format_bytes(done), *t = format_bytes(total);
    g_string_append_printf(out, "  %s of %s", d, t);
  }
  if (rate > 0) {
    g_autofree char *r = format_bytes(rate);
    g_string_append_printf(out, "  %s/s", r);
  }
  if (left > 0) {
    g_autofree char *l = format_duration(left);
    g_string_append_printf(out, "  %s left", l);
  }
}

char *progress_line(GVariant *job, int width, bool unicode) {
  g_autoptr(GString) figures = g_string_new(NULL);
  GString *out = g_string_new(NULL);
  g_autofree char *phase = format_safe(phase_of(job));
  g_string_append_printf(out, "%-15s ", phase);
  append_figures(figures, job);
  int cells = CLAMP(width - BAR_BESIDES - (int)figures->len, BAR_CELLS_MIN, BAR_CELLS_MAX);
  if (value_bool(job, "ProgressValid"))
    append_bar(out, value_double(job, "Progress", 0), cells, unicode);
  g_string_append(out, figures->str);
  if (g_utf8_strlen(out->str, -1) > width) {
    const char *end = g_utf8_offset_to_pointer(out->str, width);
    g_string_truncate(out, (gsize)(end - out->str));
  }
  return g_string_free(out, FALSE);
}

static void tell_line(Progress *progress, GVariant *job) {
  const char *phase = phase_of(job);
  gint64 now = g_get_monotonic_time();
  bool news = g_strcmp0(progress->phase, phase) != 0;
  if (*phase == '\0' || g_str_equal(phase, "finished") || (!news && now - progress->last_usec < LINE_INTERVAL_USEC))
    return;
  GString *out = g_string_new(NULL);
  g_autofree char *safe = format_safe(phase);
  g_string_append_printf(out, "%s:", safe);
  if (value_bool(job, "ProgressValid"))
    g_string_append_printf(out, " %d %%", (int)(CLAMP(value_double(job, "Progress", 0), 0.0, 1.0) * 100));
  append_figures(out, job);
  if (out->str[out->len - 1] == ':')
    g_string_truncate(out, out->len - 1);
  fprintf(stderr, "%s\n", out->str);
  g_string_free(out, TRUE);
  g_free(progress->phase);
  progress->phase = g_strdup(phase);
  progress->last_usec = now;
}

void progress_update(Progress *progress, GVariant *job) {
  if (progress->silent)
    return;
  if (!progress->terminal) {
    tell_line(progress, job);
    return;
  }
  g_autofree char *line = progress_line(job, terminal_width() - 1, format_unicode());
  fprintf(stderr, "\r\033[K%s", line);
  fflush(stderr);
  progress->drawn = true;
}

void progress_note(Progress *progress, const char *line) {
  progress_end(progress);
  fprintf(stderr, "%s\n", line);
}

void progress_end(Progress *progress) {
  if (!progress->drawn)
    return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
  progress->drawn = false;
}
