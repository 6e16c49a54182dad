/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pattern is a row of states, all of which are followed at once, one character of the text after the other: so no
 * pattern makes it slow. A star is a state that stays where it is, and lets the next one begin without a character. */

#include "glob.h"
#include <glib.h>
#include <string.h>

typedef enum Piece { LITERAL, ONE, STAR, STARS } Piece;

typedef struct Glob {
  size_t n;
  guint8 *pieces;
  char *letters;
} Glob;

static Glob glob_compile(const char *pattern) {
  size_t size = strlen(pattern);
  Glob g = {.pieces = g_malloc(size + 1), .letters = g_malloc(size + 1)};
  for (const char *p = pattern; *p; p++) {
    Piece piece = *p == '?' ? ONE : *p == '*' ? STAR : LITERAL;
    if (piece == STAR && p[1] == '*') {
      piece = STARS;
      p++;
    } else if (*p == '\\' && p[1]) {
      p++;
    }
    g.letters[g.n] = *p;
    g.pieces[g.n++] = (guint8)piece;
  }
  return g;
}

static bool is_star(const Glob *g, size_t i) {
  return i < g->n && (g->pieces[i] == STAR || g->pieces[i] == STARS);
}

/* Begins the state, and those that a star lets begin with it. */
static void enter(const Glob *g, bool *states, size_t i) {
  for (; !states[i]; i++) {
    states[i] = true;
    if (!is_star(g, i))
      return;
  }
}

static void step(const Glob *g, const bool *from, bool *to, char c) {
  for (size_t i = 0; i < g->n; i++) {
    if (!from[i])
      continue;
    bool stays = g->pieces[i] == STARS || (g->pieces[i] == STAR && c != '/');
    bool goes_on = (g->pieces[i] == ONE && c != '/') || (g->pieces[i] == LITERAL && g->letters[i] == c);
    if (stays)
      enter(g, to, i);
    else if (goes_on)
      enter(g, to, i + 1);
  }
}

bool glob_matches(const char *pattern, const char *text, size_t size) {
  Glob g = glob_compile(pattern);
  bool *states = g_new0(bool, g.n + 1), *next = g_new0(bool, g.n + 1);
  enter(&g, states, 0);
  for (size_t i = 0; i < size; i++) {
    memset(next, 0, (g.n + 1) * sizeof *next);
    step(&g, states, next, text[i]);
    bool *swap = states;
    states = next;
    next = swap;
  }
  bool matches = states[g.n];
  g_free(states);
  g_free(next);
  g_free(g.pieces);
  g_free(g.letters);
  return matches;
}
