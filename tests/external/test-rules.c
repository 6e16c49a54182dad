/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rules about external objects: what can be written, what is refused, and which objects they fit. */

#include "glob.h"
#include "rules.h"
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

static Rule *parse_ok(const char *text) {
  g_autoptr(GError) error = NULL;
  Rule *rule = rule_parse(text, "test", &error);
  g_assert_no_error(error);
  return rule;
}

static void test_texts(void) {
  static const struct {
    const char *given, *back; /* NULL: the same */
  } texts[] = {
      {"unix:path=/dev/log action=reconnect", NULL},
      {"unix:peer-comm=nscd action=close", NULL},
      {"file:path=/var/lib/x/* action=embed", NULL},
      {"file:path=/a action=remap:/b", NULL},
      {"  unix:action=close   path=/x\t peer-uid=0 ", "unix:path=/x peer-uid=0 action=close"},
      {"unix: path=/x action=close", "unix:path=/x action=close"},
      {"unix:path=\"/with blank\" action=fail reason=\"it \\\"says\\\" \\\\ no\" cure=\"a # b\"",
          "unix:path=\"/with blank\" action=fail reason=\"it \\\"says\\\" \\\\ no\" cure=\"a # b\""},
      {"unix:type=seqpacket ino=7 peer-ino=18446744073709551615 fd=0 peer-pid=3 local=@x action=inherit:socket:[7]", 
          "unix:local=@x peer-pid=3 type=seqpacket ino=7 peer-ino=18446744073709551615 fd=0 action=inherit:socket:[7]"},
      {"unix:action=reconnect:@/tmp/x send=\"a\\n%c\" unread=drop", "unix:action=reconnect:@/tmp/x unread=drop send=a\\n%c"},
      {"unix:action=reconnect unread=keep", "unix:action=reconnect"},
      {"device:rdev=4095:1048575 action=plugin:gpu", NULL},
      {"file:path=** check=size,mtime,build-id,content", NULL},
      {"file:path=** check=none", NULL},
      {"file:action=reopen check=content,size", "file:action=reopen check=size,content"},
      {"mapping:path=/dev/x action=plugin", NULL},
      {"other:path=anon_inode:* action=fail", NULL},
      {"unix:path=/x: action=close", NULL},
      {"unix:path=\"/x\r\" action=close", NULL},
      {"pipe:peer-comm=cat ino=5 fd=0 action=inherit:in", NULL},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
    g_autoptr(Rule) rule = parse_ok(texts[i].given);
    g_autofree char *text = rule_text(rule);
    g_assert_cmpstr(text, ==, texts[i].back ? texts[i].back : texts[i].given);
    g_autoptr(Rule) again = parse_ok(text);
    g_autofree char *twice = rule_text(again);
    g_assert_cmpstr(twice, ==, text);
  }
}

static void test_refusals(void) {
  static const struct {
    const char *text, *mentions;
  } texts[] = {
      {"", "should begin with"},
      {"/dev/log", "should begin with"},
      {"path=/dev/log action=close", "should begin with"},
      {"tcp:path=x action=close", "should begin with"},
      {"unix:", "action= is missing"},
      {"unix:path=/dev/log", "action= is missing"},
      {"unix:path action=close", "KEY=VALUE"},
      {"unix:colour=red action=close", "\"colour\" is nothing"},
      {"file:peer-comm=x action=embed", "\"peer-comm\" is nothing that a rule about file"},
      {"unix:path= action=close", "path=: should be a pattern"},
      {"unix:path=/a path=/b action=close", "path is there twice"},
      {"unix:action=close action=close", "action is there twice"},
      {"unix:action=explode", "action=explode"},
      {"unix:action=reconnect:", "action=reconnect:"},
      {"unix:action=reconnect:relative", "no address"},
      {"unix:action=reconnect:@", "no address"},
      {"unix:action=close:now", "takes no argument"},
      {"unix:action=embed", "does not go with unix"},
      {"file:action=close", "does not go with file"},
      {"pipe:action=plugin", "does not go with pipe"},
      {"pipe:path=/x action=close", "\"path\" is nothing"},
      {"file:action=remap", "needs an argument"},
      {"file:action=remap:b", "no absolute path"},
      {"unix:action=close send=x", "action=reconnect only"},
      {"unix:action=close unread=drop", "action=reconnect only"},
      {"unix:action=close reason=x", "action=fail only"},
      {"file:action=embed check=size", "check= goes with"},
      {"file:check=colour", "check=colour"},
      {"file:check=none,size", "check=none,size"},
      {"file:check=size,", "check=size,"},
      {"unix:peer-uid=root action=close", "peer-uid=root: should be a number"},
      {"unix:peer-uid=4294967296 action=close", "should be a number"},
      {"unix:peer-uid=-1 action=close", "should be a number"},
      {"unix:ino=0 action=close", "should be an inode's number"},
      {"unix:type=raw action=close", "stream, seqpacket or dgram"},
      {"device:rdev=1 action=reopen", "MAJOR:MINOR"},
      {"device:rdev=4096:0 action=reopen", "MAJOR:MINOR"},
      {"unix:path=\"/x action=close", "quotes do not end"},
      {"unix:path=\"/x\"y action=close", "blank is missing"},
      {"unix:path=/x\naction=close", "line break"},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
    g_autoptr(GError) error = NULL;
    g_assert_null(rule_parse(texts[i].text, "here line 3", &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS);
    if (!strstr(error->message, texts[i].mentions) || !g_str_has_prefix(error->message, "here line 3: "))
      g_error("'%s': \"%s\" does not mention \"%s\"", texts[i].text, error->message, texts[i].mentions);
  }
  g_autofree char *endless = g_strnfill(20000, 'x'), *text = g_strconcat("unix:action=close path=", endless, NULL);
  g_assert_null(rule_parse(text, "test", NULL));
}

static void test_globs(void) {
  static const struct {
    const char *pattern, *text;
    bool matches;
  } globs[] = {
      {"", "", true}, {"", "x", false}, {"x", "", false}, {"/dev/log", "/dev/log", true}, {"/dev/log", "/dev/logs", false},
      {"/run/*", "/run/x", true}, {"/run/*", "/run/", true}, {"/run/*", "/run/x/y", false}, {"/run/**", "/run/x/y", true},
      {"*", "abc", true}, {"*", "a/c", false}, {"**", "a/c", true}, {"**", "", true}, {"a*c*e", "abcde", true},
      {"a*c*e", "abcdef", false}, {"**/log", "/a/b/log", true}, {"**/log", "log", false}, {"a?c", "abc", true},
      {"a?c", "a/c", false}, {"a?c", "ac", false}, {"\\*", "*", true}, {"\\*", "x", false}, {"a\\\\b", "a\\b", true},
      {"x\\", "x\\", true}, {"***", "a/b", true}, {"*?", "", false}, {"**b", "aabab", true},
  };
  for (size_t i = 0; i < G_N_ELEMENTS(globs); i++)
    if (glob_matches(globs[i].pattern, globs[i].text, strlen(globs[i].text)) != globs[i].matches)
      g_error("\"%s\" and \"%s\"", globs[i].pattern, globs[i].text);
  g_autofree char *stars = g_strnfill(4000, '*'), *text = g_strnfill(4000, 'a');
  g_assert_false(glob_matches("**a**a**a**a**a**a**a**a**a**a**a**b", text, 4000));
  g_assert_true(glob_matches(stars, text, 4000));
}

static ExternalObject syslog_socket(void) {
  ExternalObject o = {.kind = EXTERNAL_UNIX, .comm = "logger", .fd = 3, .pid = 77};
  o.sock.type = SOCK_DGRAM;
  o.sock.ino = 10;
  o.sock.peer_ino = 20;
  o.sock.peer_name = (const guint8 *)"/dev/log";
  o.sock.peer_name_size = sizeof "/dev/log";
  o.sock.peer_known = true;
  o.sock.peer_pid = 5;
  o.sock.peer_comm = "rsyslogd";
  return o;
}

static void test_matches(void) {
  static const struct {
    const char *rule;
    bool matches;
  } cases[] = {
      {"unix:action=close", true}, {"file:action=embed", false}, {"unix:path=/dev/log action=close", true},
      {"unix:path=/dev/* action=close", true}, {"unix:path=/dev/lo action=close", false},
      {"unix:local=** action=close", false}, {"unix:comm=logger action=close", true},
      {"unix:comm=log action=close", false}, {"unix:peer-comm=*syslogd action=close", true},
      {"unix:peer-uid=0 action=close", true}, {"unix:peer-uid=1 action=close", false},
      {"unix:peer-pid=5 action=close", true}, {"unix:peer-pid=0 action=close", false},
      {"unix:type=dgram action=close", true}, {"unix:type=stream action=close", false},
      {"unix:ino=10 peer-ino=20 fd=3 action=close", true}, {"unix:ino=20 action=close", false},
      {"unix:path=/dev/log peer-comm=other action=close", false},
  };
  ExternalObject o = syslog_socket();
  for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(Rule) rule = parse_ok(cases[i].rule);
    if (rule_matches(rule, &o) != cases[i].matches)
      g_error("%s", cases[i].rule);
  }
  ExternalObject unknown = {.kind = EXTERNAL_UNIX};
  g_autoptr(Rule) root = parse_ok("unix:peer-uid=0 action=close"), any = parse_ok("unix:path=** action=close");
  g_assert_false(rule_matches(root, &unknown) || rule_matches(any, &unknown));
  ExternalObject device = {.kind = EXTERNAL_DEVICE, .path = "/dev/net/tun", .st.st_rdev = makedev(10, 200), .fd = 1};
  g_autoptr(Rule) tun = parse_ok("device:rdev=10:200 action=reopen"), path = parse_ok("device:path=/dev/** action=reopen");
  g_assert_true(rule_matches(tun, &device) && rule_matches(path, &device));
}

static void test_addresses(void) {
  static const guint8 abstract[] = {0, 'a', 0, 'b'};
  g_autofree char *text = rule_address(abstract, sizeof abstract), *path = rule_address((const guint8 *)"/x\0y", 5);
  g_assert_cmpstr(text, ==, "@a@b");
  g_assert_cmpstr(path, ==, "/x");
  g_autoptr(GBytes) bytes = rule_address_bytes("@ab"), name = rule_address_bytes("/x");
  g_assert_cmpmem(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), "\0ab", 3);
  g_assert_cmpmem(g_bytes_get_data(name, NULL), g_bytes_get_size(name), "/x", 3);
  g_autofree char *longest = g_strnfill(107, '/'), *longer = g_strnfill(108, '/');
  g_autoptr(GBytes) just = rule_address_bytes(longest), none = rule_address_bytes(longer);
  g_assert_true(just && !none);
}

static void test_send(void) {
  ExternalObject o = syslog_socket();
  g_autoptr(Rule) rule = parse_ok("unix:action=reconnect send=\"%c %p%%\\\\n\\\\x41\\\\x\\\\0%d\"");
  g_autoptr(GBytes) bytes = rule_expand_send(rule, &o);
  static const char wanted[] = "logger 77%\nAx\0%d";
  g_assert_cmpmem(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes), wanted, sizeof wanted - 1);
}

static void test_files(void) {
  g_autoptr(Rules) rules = rules_new();
  g_autoptr(GError) error = NULL;
  g_assert_true(rules_add_text(rules,
      "# a comment\n\n  unix:path=/a \\\n    action=close\r\nfile:check=none\nfile:path=/b action=embed\n#\\\nunix:action=fail",
      "x.conf", &error));
  g_assert_no_error(error);
  g_assert_cmpuint(rules_size(rules), ==, 3);
  g_assert_cmpstr(rules_get(rules, 0)->source, ==, "x.conf line 3");
  g_assert_cmpstr(rules_get(rules, 2)->source, ==, "x.conf line 6");
  ExternalObject file = {.kind = EXTERNAL_FILE, .path = "/b"};
  g_assert_true(rules_find(rules, &file) == rules_get(rules, 2));
  g_assert_true(rules_find_checks(rules, &file) == rules_get(rules, 1));
  g_assert_false(rules_add_text(rules, "\nunix:nonsense", "y.conf", &error));
  g_assert_true(g_str_has_prefix(error->message, "y.conf line 2: "));
}

/* Every shipped file reads well, and says what its name promises. */
static void test_shipped(void) {
  static const struct {
    const char *address;
    ExternalAction action;
  } peers[] = {{"/dev/log", EXTERNAL_PLUGIN}, {"/run/systemd/journal/stdout", EXTERNAL_PLUGIN}, {"/run/systemd/journal.web/socket", EXTERNAL_PLUGIN},
      {"/run/nscd/socket", EXTERNAL_CLOSE}, {"/var/lib/sss/pipes/private/pam", EXTERNAL_CLOSE},
      {"@/tmp/.X11-unix/X0", EXTERNAL_FAIL}, {"/run/user/1000/wayland-0", EXTERNAL_FAIL},
      {"/run/user/1000/pulse/native", EXTERNAL_CLOSE}, {"/run/user/1000/bus", EXTERNAL_DBUS}, {"/run/x", EXTERNAL_NOBODY}};
  g_autoptr(Rules) rules = rules_new();
  g_autoptr(GError) error = NULL;
  g_assert_true(rules_add_directories(rules, SHIPPED_RULES, &error));
  g_assert_no_error(error);
  for (size_t i = 0; i < G_N_ELEMENTS(peers); i++) {
    g_autoptr(GBytes) name = rule_address_bytes(peers[i].address);
    ExternalObject o = {.kind = EXTERNAL_UNIX};
    o.sock.type = SOCK_STREAM;
    o.sock.peer_name = g_bytes_get_data(name, &o.sock.peer_name_size);
    const Rule *rule = rules_find(rules, &o);
    g_assert_cmpint(rule ? rule->action : EXTERNAL_NOBODY, ==, peers[i].action);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/rules/texts", test_texts);
  g_test_add_func("/rules/refusals", test_refusals);
  g_test_add_func("/rules/globs", test_globs);
  g_test_add_func("/rules/matches", test_matches);
  g_test_add_func("/rules/addresses", test_addresses);
  g_test_add_func("/rules/send", test_send);
  g_test_add_func("/rules/files", test_files);
  g_test_add_func("/rules/shipped", test_shipped);
  return g_test_run();
}
