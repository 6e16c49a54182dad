/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages of the bus: what is written can be read; what is cut or crooked is refused, wherever it is. argv[1]: a
 * directory with messages as a bus sends them (tests/fuzz/corpus/bus, one byte before each). */

#include "bus-message.h"
#include <string.h>

static const char *corpus;

static void test_calls(void) {
  static const struct {
    const char *member, *text;
    gint64 number;
    const char *signature;
  } calls[] = {{"Hello", NULL, -1, ""}, {"AddMatch", "type='signal'", -1, "s"}, {"RequestName", "a.b", 4, "su"}};
  for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
    BusMessage m;
    g_autoptr(GByteArray) a = bus_call_new(7, BUS_NO_REPLY, NULL, calls[i].member, calls[i].text, calls[i].number);
    g_assert_cmpuint(bus_message_size(a->data), ==, a->len);
    g_assert_true(bus_message_parse(a->data, a->len, &m));
    g_assert_cmpint(m.type, ==, BUS_CALL);
    g_assert_cmpint(m.flags, ==, BUS_NO_REPLY);
    g_assert_cmpuint(m.serial, ==, 7);
    g_assert_cmpstr(m.member, ==, calls[i].member);
    g_assert_cmpstr(m.signature, ==, calls[i].signature);
    for (guint cut = 0; cut < a->len; cut++)
      g_assert_false(bus_message_parse(a->data, cut, &m));
  }
  BusMessage m;
  g_autoptr(GByteArray) e = bus_error_new(3, 99, ":1.2", "a.b.Failed");
  g_assert_true(bus_message_parse(e->data, e->len, &m) && m.type == BUS_ERROR && m.reply_serial == 99);
  g_assert_cmpstr(m.error, ==, "a.b.Failed");
}

static guint8 *message(const char *name, gsize *ret_size, BusMessage *ret) {
  g_autofree char *path = g_build_filename(corpus, name, NULL), *bytes = NULL;
  g_autoptr(GError) error = NULL;
  g_assert_true(g_file_get_contents(path, &bytes, ret_size, &error));
  guint8 *data = g_memdup2(bytes + 1, --*ret_size);
  g_assert_true(bus_message_parse(data, *ret_size, ret));
  return data;
}

static void test_bodies(void) {
  gsize size;
  BusMessage m;
  guint32 number = 0;
  g_autofree guint8 *a = message("number", &size, &m);
  g_assert_nonnull(a);
  g_assert_true(bus_read_number(&m, &number) && number == 42 && m.reply_serial == 9);
  g_assert_null(bus_read_text(&m));
  g_autofree guint8 *b = message("texts", &size, &m);
  g_assert_nonnull(b);
  g_auto(GStrv) texts = bus_read_texts(&m);
  g_assert_cmpuint(g_strv_length(texts), ==, 3);
  g_assert_cmpstr(texts[1], ==, "org.test.X");
  g_autofree guint8 *c = message("dictionary", &size, &m);
  g_assert_nonnull(c);
  g_auto(GStrv) rules = bus_read_texts_of(&m, ":1.0"), none = bus_read_texts_of(&m, ":1.9");
  g_assert_cmpuint(g_strv_length(rules), ==, 2);
  g_assert_cmpstr(rules[0], ==, "type='signal'");
  g_assert_cmpuint(g_strv_length(none), ==, 0);
  g_autofree guint8 *e = message("error", &size, &m);
  g_assert_nonnull(e);
  g_assert_cmpstr(m.error, ==, "a.b.C");
  g_assert_null(bus_read_text(&m)); /* an error's text is no answer */
}

/* Every single byte changed: read or refused, never beyond the end (the suite with sanitizers sees it). */
static void test_damage(void) {
  static const char *const names[] = {"number", "texts", "dictionary", "call"};
  for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
    gsize size;
    BusMessage m;
    g_autofree guint8 *whole = message(names[i], &size, &m);
    for (gsize at = 0; at < size; at++) {
      static const guint8 values[] = {0, 1, 0x7f, 0xff};
      for (size_t v = 0; v < sizeof values; v++) {
        g_autofree guint8 *bad = g_memdup2(whole, size);
        guint32 number;
        bad[at] = values[v];
        if (!bus_message_parse(bad, size, &m))
          continue;
        (void)bus_read_number(&m, &number);
        g_free(bus_read_text(&m));
        g_strfreev(bus_read_texts(&m));
        g_strfreev(bus_read_texts_of(&m, ":1.0"));
      }
    }
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  corpus = argv[1];
  g_test_add_func("/bus-message/calls", test_calls);
  g_test_add_func("/bus-message/bodies", test_bodies);
  g_test_add_func("/bus-message/damage", test_damage);
  return g_test_run();
}
