// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tree.h"

#include "value.h"

typedef struct Tree {
  gsize n;
  const uint64_t *pids, *parents;
  GArray *lines;
  bool *done;
  bool unicode;
} Tree;

static void line_clear(TreeLine *line) {
  g_free(line->drawing);
}

// The next task after @from that is a child of @pid and not drawn yet, or the number of tasks.
static gsize next_child(const Tree *tree, uint64_t pid, gsize from) {
  gsize i = from;
  while (i < tree->n && (tree->done[i] || tree->parents[i] != pid))
    i++;
  return i;
}

static void draw(Tree *tree, gsize task, const char *before, const char *own, const char *below) {
  TreeLine line = {.drawing = g_strconcat(before, own, NULL), .task = task};
  g_autofree char *prefix = g_strconcat(before, below, NULL);
  uint64_t pid = tree->pids[task];

  tree->done[task] = true;
  g_array_append_val(tree->lines, line);
  for (gsize child = next_child(tree, pid, 0); child < tree->n; child = next_child(tree, pid, child)) {
    bool last = next_child(tree, pid, child + 1) == tree->n;
    if (tree->unicode)
      draw(tree, child, prefix, last ? "└─ " : "├─ ", last ? "   " : "│  ");
    else
      draw(tree, child, prefix, last ? "`- " : "|- ", last ? "   " : "|  ");
  }
}

static bool has_parent(const Tree *tree, gsize task) {
  for (gsize i = 0; i < tree->n; i++)
    if (i != task && tree->pids[i] == tree->parents[task])
      return true;
  return false;
}

// What @key says of each task.
static uint64_t *column(GVariant *tasks, const char *key) {
  gsize n = g_variant_n_children(tasks);
  uint64_t *values = g_new0(uint64_t, n);
  for (gsize i = 0; i < n; i++) {
    g_autoptr(GVariant) task = g_variant_get_child_value(tasks, i);
    values[i] = value_u64(task, key, 0);
  }
  return values;
}

GArray *tree_lines(GVariant *tasks, bool unicode) {
  gsize n = g_variant_n_children(tasks);
  g_autofree bool *done = g_new0(bool, n);
  g_autofree uint64_t *pids = column(tasks, "pid"), *parents = column(tasks, "ppid");
  Tree tree = {.n = n, .pids = pids, .parents = parents, .done = done, .unicode = unicode};

  tree.lines = g_array_new(FALSE, FALSE, sizeof(TreeLine));
  g_array_set_clear_func(tree.lines, (GDestroyNotify)line_clear);
  for (gsize i = 0; i < n; i++)
    if (!done[i] && !has_parent(&tree, i))
      draw(&tree, i, "", "", "");
  for (gsize i = 0; i < n; i++)
    if (!done[i]) // a circle, which no kernel made
      draw(&tree, i, "", "", "");
  return tree.lines;
}
