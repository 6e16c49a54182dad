/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "verify.h"

/* tty-info.img, tty-data.img, and what checkpoint.img adds to them. */

#define INDEX_LIMIT (1u << 20) /* minor numbers */
#define DATA_LIMIT (1u << 20)  /* bytes; the kernel holds some 12 KiB in each direction */

static bool verify_termios(const TtyInfoEntry *info, const TermiosEntry *t, GError **error) {
  if (!t || (t->n_c_cc >= 17 && t->n_c_cc <= 64))
    return true;
  return image_invalid(error, IMAGE_TTY_INFO, 0, "id %u: a termios with %zu characters", info->id, t->n_c_cc);
}

static bool verify_info(const TtyInfoEntry *info, GError **error) {
  const WinsizeEntry *w = info->winsize;
  if (info->type == TTY_TYPE__PTY && !info->pty)
    return image_invalid(error, IMAGE_TTY_INFO, 0, "id %u: a pseudo terminal without a number", info->id);
  if (info->pty && info->pty->index >= INDEX_LIMIT)
    return image_invalid(error, IMAGE_TTY_INFO, 0, "id %u: no terminal has number %u", info->id, info->pty->index);
  if (w && (w->ws_row > 0xffff || w->ws_col > 0xffff || w->ws_xpixel > 0xffff || w->ws_ypixel > 0xffff))
    return image_invalid(error, IMAGE_TTY_INFO, 0, "id %u: no window is that large", info->id);
  return verify_termios(info, info->termios, error) && verify_termios(info, info->termios_locked, error);
}

static bool verify_tty_files(const Checkpoint *c, GError **error) {
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < c->files->len; i++) {
    const FileEntry *e = c->files->pdata[i];
    if (e->type != FD_TYPES__TTY)
      continue;
    const TtyInfoEntry *info = checkpoint_find_tty_info(c, e->tty->tty_info_id);
    if (!info)
      return image_invalid(
          error, IMAGE_FILES, 0, "file id %u: terminal %u is not in tty-info.img", e->id, e->tty->tty_info_id);
    if (g_hash_table_add(seen, GUINT_TO_POINTER(info->id)) && !verify_info(info, error))
      return false;
  }
  return true;
}

static const TtyDataEntry *find_data(const Checkpoint *c, guint32 id) {
  const GPtrArray *records = c->records[RECORD_TTY_DATA];
  for (guint i = 0; i < records->len; i++) {
    const TtyDataEntry *d = (TtyDataEntry *)((Record *)records->pdata[i])->message;
    if (d->tty_id == id)
      return d;
  }
  return NULL;
}

static bool verify_data(const Checkpoint *c, GError **error) {
  const GPtrArray *records = c->records[RECORD_TTY_DATA];
  for (guint i = 0; i < records->len; i++) {
    const TtyDataEntry *d = (TtyDataEntry *)((Record *)records->pdata[i])->message;
    if (d->data.len > DATA_LIMIT)
      return image_invalid(error, IMAGE_TTY_DATA, 0, "terminal %u: %zu bytes are too many", d->tty_id, d->data.len);
    if (find_data(c, d->tty_id) != d)
      return image_invalid(error, IMAGE_TTY_DATA, 0, "terminal %u: there twice", d->tty_id);
  }
  return true;
}

/* The slave's input is under the id of its entry in tty-info.img. */
static gsize input_size(const Checkpoint *c, guint32 index) {
  const GPtrArray *records = c->records[RECORD_TTY_INFO];
  for (guint i = 0; i < records->len; i++) {
    const TtyInfoEntry *info = (TtyInfoEntry *)((Record *)records->pdata[i])->message;
    const TtyDataEntry *d = info->pty && info->pty->index == index && info->type == TTY_TYPE__PTY && info->rdev >> 8 != 5
                                ? find_data(c, info->id)
                                : NULL;
    if (d)
      return d->data.len;
  }
  return 0;
}

static bool verify_extras(const Checkpoint *c, GError **error) {
  for (guint i = 0; i < c->ttys->len; i++) {
    const CkptTty *t = c->ttys->pdata[i];
    gsize size = input_size(c, t->index);
    if (t->index >= INDEX_LIMIT || checkpoint_find_tty(c, t->index) != t)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "terminal %u: no such number, or there twice", t->index);
    if (t->complete > size || t->n_eof > DATA_LIMIT)
      return image_invalid(error, IMAGE_CHECKPOINT, 0, "terminal %u: its input is not that long", t->index);
    for (size_t k = 0; k < t->n_eof; k++)
      if (t->eof[k] > t->complete || (k && t->eof[k] < t->eof[k - 1]))
        return image_invalid(error, IMAGE_CHECKPOINT, 0, "terminal %u: an end of file stands nowhere", t->index);
  }
  return true;
}

bool verify_ttys(const Checkpoint *c, GError **error) {
  return verify_tty_files(c, error) && verify_data(c, error) && verify_extras(c, error);
}
