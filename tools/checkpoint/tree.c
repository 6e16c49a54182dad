// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tree.h"

#include "value.h"

typedef struct Tree {
  GVariant *tasks;
  GArray *lines;
  bool *done;
  bool unicode;
} Tree;

static void line_clear(TreeLine *line) {
  g_free(line->drawing);
}

static uint64_t task_u64(const Tree *tree, gsize i, const char *key) {
  g_autoptr(GVariant) task = g_variant_get_child_value(tree->tasks, i);
  return value_u64(task, key, 0);
}

// The next task after @from that is a child of @pid and not drawn yet, or the number of tasks.
static gsize next_child(const Tree *tree, uint64_t pid, gsize from) {
  gsize i = from, n = g_variant_n_children(tree->tasks);
  while (i < n && (tree->done[i] || task_u64(tree, i, "ppid") != pid))
    i++;
  return i;
}

static void draw(Tree *tree, gsize task, const char *before, const char *own, const char *below) {
  TreeLine line = {.drawing = g_strconcat(before, own, NULL), .task = task};
  g_autofree char *prefix = g_strconcat(before, below, NULL);
  uint64_t pid = task_u64(tree, task, "pid");
  gsize n = g_variant_n_children(tree->tasks);

  tree->done[task] = true;
  g_array_append_val(tree->lines, line);
  for (gsize child = next_child(tree, pid, 0); child < n; child = next_child(tree, pid, child)) {
    bool last = next_child(tree, pid, child + 1) == n;
    if (tree->unicode)
      draw(tree, child, prefix, last ? "└─ " : "├─ ", last ? "   " : "│  ");
    else
      draw(tree, child, prefix, last ? "`- " : "|- ", last ? "   " : "|  ");
  }
}

static bool has_parent(const Tree *tree, gsize task) {
  uint64_t parent = task_u64(tree, task, "ppid");
  for (gsize i = 0; i < g_variant_n_children(tree->tasks); i++)
    if (i != task && task_u64(tree, i, "pid") == parent)
      return true;
  return false;
}

GArray *tree_lines(GVariant *tasks, bool unicode) {
  gsize n = g_variant_n_children(tasks);
  g_autofree bool *done = g_new0(bool, n);
  Tree tree = {.tasks = tasks, .done = done, .unicode = unicode};

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
