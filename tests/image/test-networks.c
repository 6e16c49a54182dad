/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Network namespaces in images: they come back as they were, and nonsense in them is refused. */
#include "error.h"
#include "fixture.h"
#include "image.h"
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { ID = 4242, LINK = 7 };

#define NEW(Type, init) ({ Type *new_ = calloc(1, sizeof *new_); init(new_); new_; })

/* What iproute2 writes: its word, and one message of the kernel's. */
static GBytes *saved(guint32 magic, guint16 type) {
  struct {
    guint32 magic;
    struct nlmsghdr h;
    char payload[8];
  } all = {magic, {.nlmsg_len = sizeof all.h + sizeof all.payload, .nlmsg_type = type}, "payload"};
  return g_bytes_new(&all, sizeof all);
}

static CkptNetLink *link_new(void) {
  CkptNetLink *l = NEW(CkptNetLink, ckpt_net_link__init);
  l->ifindex = LINK;
  l->kind = strdup("veth");
  l->outside = NEW(CkptNetOutside, ckpt_net_outside__init);
  l->outside->name = strdup("host0");
  l->outside->master = strdup("br0");
  l->setting = calloc(1, sizeof *l->setting);
  l->setting[l->n_setting++] = NEW(CkptNetSetting, ckpt_net_setting__init);
  l->setting[0]->name = strdup("ipv6/conf/accept_dad");
  l->setting[0]->value = strdup("2");
  return l;
}

static NetNamespace *network_new(void) {
  NetNamespace *ns = net_namespace_new(ID);
  ns->entry = NEW(NetnsEntry, netns_entry__init);
  NetDeviceEntry *d = NEW(NetDeviceEntry, net_device_entry__init);
  d->type = ND_TYPE__VETH;
  d->ifindex = LINK;
  d->name = strdup("eth0");
  g_ptr_array_add(ns->devices, d);
  ns->raw[NET_RAW_IFADDR] = saved(0x47361222, RTM_NEWADDR);
  ns->raw[NET_RAW_RULE] = saved(0x71706986, RTM_NEWRULE);
  ns->extra = NEW(CkptNetns, ckpt_netns__init);
  ns->extra->id = ID;
  ns->extra->link = calloc(1, sizeof *ns->extra->link);
  ns->extra->link[ns->extra->n_link++] = link_new();
  return ns;
}

static Checkpoint *checkpoint_with_network(NetNamespace **ret) {
  Checkpoint *c = fixture_rich();
  TaskKobjIdsEntry *ids = ((Task *)c->tasks->pdata[0])->ids;
  ids->has_net_ns_id = true;
  ids->net_ns_id = ID;
  (void)checkpoint_add_namespace(c, CLONE_NEWNET, ID);
  g_ptr_array_add(c->net_namespaces, *ret = network_new());
  return c;
}

static GHashTable *store(const Checkpoint *c, GError **error) {
  char *path;
  guint64 written;
  int dir = fixture_directory(&path);
  fixture_content(c, dir);
  GHashTable *files = image_store(c, dir, false, &written, error) ? fixture_slurp(path) : NULL;
  fixture_remove(path, dir);
  return files;
}

static void test_it_comes_back(void) {
  NetNamespace *ns;
  g_autoptr(Checkpoint) c = checkpoint_with_network(&ns);
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) files = store(c, &error);
  g_assert_no_error(error);
  g_autoptr(Checkpoint) again = fixture_load(files, &error);
  g_assert_no_error(error);
  const NetNamespace *n = checkpoint_find_net(again, ID);
  g_assert_nonnull(n);
  g_assert_cmpuint(n->devices->len, ==, 1);
  g_assert_cmpstr(((const NetDeviceEntry *)n->devices->pdata[0])->name, ==, "eth0");
  g_assert_true(g_bytes_equal(n->raw[NET_RAW_IFADDR], ns->raw[NET_RAW_IFADDR]));
  g_assert_null(n->raw[NET_RAW_ROUTE]);
  g_assert_cmpstr(n->extra->link[0]->outside->master, ==, "br0");
}

static void test_a_file_is_missing(void) {
  NetNamespace *ns;
  g_autoptr(Checkpoint) c = checkpoint_with_network(&ns);
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) files = store(c, &error);
  g_assert_no_error(error);
  g_assert_true(g_hash_table_remove(files, "ifaddr-4242.img"));
  g_assert_null(fixture_load(files, &error));
  g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
}

typedef void Spoil(NetNamespace *ns);

static void put(char **text, const char *value) {
  free(*text);
  *text = strdup(value);
}

static void put_raw(NetNamespace *ns, NetRaw kind, GBytes *bytes) {
  g_clear_pointer(&ns->raw[kind], g_bytes_unref);
  ns->raw[kind] = bytes;
}

static NetDeviceEntry *device_of(NetNamespace *ns) {
  return ns->devices->pdata[0];
}

static void spoil_name(NetNamespace *ns) {
  put(&device_of(ns)->name, "../eth0");
}

static void spoil_long_name(NetNamespace *ns) {
  put(&device_of(ns)->name, "a-name-of-sixteen");
}

static void spoil_number(NetNamespace *ns) {
  device_of(ns)->ifindex = 0;
}

static void spoil_link(NetNamespace *ns) {
  ns->extra->link[0]->ifindex = LINK + 1;
}

static void spoil_outside(NetNamespace *ns) {
  put(&ns->extra->link[0]->outside->name, "host 0");
}

static void spoil_setting(NetNamespace *ns) {
  put(&ns->extra->link[0]->setting[0]->name, "ipv6/../../kernel/core_pattern");
}

static void spoil_absolute_setting(NetNamespace *ns) {
  put(&ns->extra->link[0]->setting[0]->name, "/proc/sys/kernel/core_pattern");
}

static void spoil_magic(NetNamespace *ns) {
  put_raw(ns, NET_RAW_IFADDR, saved(1, RTM_NEWADDR));
}

static void spoil_type(NetNamespace *ns) {
  put_raw(ns, NET_RAW_IFADDR, saved(0x47361222, RTM_DELLINK));
}

static void spoil_length(NetNamespace *ns) {
  g_autoptr(GBytes) whole = saved(0x47361222, RTM_NEWADDR);
  put_raw(ns, NET_RAW_IFADDR, g_bytes_new(g_bytes_get_data(whole, NULL), g_bytes_get_size(whole) - 5));
}

static void spoil_neighbours(NetNamespace *ns) {
  ns->extra->has_neighbours = true;
  ns->extra->neighbours.len = 5;
  ns->extra->neighbours.data = calloc(1, 5);
}

static void spoil_address(NetNamespace *ns) {
  device_of(ns)->has_address = true;
  device_of(ns)->address.len = 33;
  device_of(ns)->address.data = calloc(1, 33);
}

static void test_nonsense(void) {
  static Spoil *const ways[] = {spoil_name, spoil_long_name, spoil_number, spoil_link, spoil_outside, spoil_setting, spoil_absolute_setting, spoil_magic,
      spoil_type, spoil_length, spoil_neighbours, spoil_address};
  for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
    NetNamespace *ns;
    g_autoptr(Checkpoint) c = checkpoint_with_network(&ns);
    g_autoptr(GError) error = NULL;
    ways[i](ns);
    g_assert_null(store(c, &error));
    g_assert_error(error, ENGINE_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/networks/come-back", test_it_comes_back);
  g_test_add_func("/networks/missing", test_a_file_is_missing);
  g_test_add_func("/networks/nonsense", test_nonsense);
  return g_test_run();
}
