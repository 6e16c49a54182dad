/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net-firewall.h"
#include "net-talk.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define RULES_MAX (64u << 20)

static bool has_tables(void) {
  const struct nfgenmsg all = {.nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0};
  g_autoptr(GByteArray) bytes = g_byte_array_new();
  return net_talk_list(NETLINK_NETFILTER, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE, 0, &all, sizeof all, bytes) == 0 && bytes->len > 0;
}

/* --- the program --- */

static _Noreturn void become_nft(int in, int out, char *const *argv) {
  static char *const environment[] = {(char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C", NULL};
  sigset_t none;
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 || close_range(3, ~0u, 0) < 0)
    _exit(127);
  /* Whatever PATH this process has, or has not: where there is none, the C library does not look where the machine's
   * administrator has it. */
  (void)execve("/usr/sbin/nft", argv, environment);
  (void)execve("/sbin/nft", argv, environment);
  (void)execvpe("nft", argv, environment);
  _exit(127);
}

/* Reads to the end; what is above the limit is left. */
static GByteArray *read_output(int fd) {
  GByteArray *text = g_byte_array_new();
  guint8 buffer[16384];
  for (ssize_t n; text->len < RULES_MAX && ((n = read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR));)
    if (n > 0)
      g_byte_array_append(text, buffer, (guint)n);
  return text;
}

/* *ret_output also has what it says about errors. Its exit status, or a negative errno. */
static int run_nft(char *const *argv, int in, GByteArray **ret_output) {
  int ends[2], status = 0;
  *ret_output = NULL;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  pid_t pid = fork();
  if (pid == 0)
    become_nft(in, ends[1], argv);
  (void)close(ends[1]);
  if (pid > 0)
    *ret_output = read_output(ends[0]);
  (void)close(ends[0]);
  if (pid < 0)
    return -EAGAIN;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return -errno;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static bool nft_failed(int status, const GByteArray *output, const char *what, GError **error) {
  g_autofree char *said = output ? g_strndup((const char *)output->data, MIN(output->len, 400)) : g_strdup("");
  if (status == 127)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "the program nft, which %s the rules of nftables, is not installed", what);
  return engine_fail(error, ENGINE_ERROR_CODE__FAILED, "the program nft, which %s the rules of nftables, failed: %s", what, g_strstrip(said));
}

bool net_firewall_save(GBytes **ret, GError **error) {
  *ret = NULL;
  if (!has_tables())
    return true;
  char *argv[] = {(char *)"nft", (char *)"list", (char *)"ruleset", NULL};
  int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  g_autoptr(GByteArray) output = NULL;
  int status = run_nft(argv, in, &output);
  if (in >= 0)
    (void)close(in);
  if (status != 0)
    return nft_failed(status, output, "reads", error);
  if (g_strstr_len((const char *)output->data, output->len, "xt match ") || g_strstr_len((const char *)output->data, output->len, "xt target "))
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "some rules are of iptables' extensions, which nft cannot write down");
  *ret = g_byte_array_free_to_bytes(g_steal_pointer(&output));
  return true;
}

static int as_file(GBytes *rules) {
  gsize size = 0;
  const char *data = g_bytes_get_data(rules, &size);
  int fd = memfd_create("nftables", MFD_CLOEXEC);
  for (gsize done = 0; fd >= 0 && done < size;) {
    ssize_t n = write(fd, data + done, size - done);
    if (n <= 0) {
      (void)close(fd);
      return -1;
    }
    done += (gsize)n;
  }
  if (fd >= 0)
    (void)lseek(fd, 0, SEEK_SET);
  return fd;
}

bool net_firewall_restore(GBytes *rules, GError **error) {
  char *argv[] = {(char *)"nft", (char *)"-f", (char *)"-", NULL};
  g_autoptr(GByteArray) output = NULL;
  int in = as_file(rules);
  int status = in < 0 ? -errno : run_nft(argv, in, &output);
  if (in >= 0)
    (void)close(in);
  return status == 0 || nft_failed(status, output, "writes", error);
}

char *net_firewall_old_tables(void) {
  g_autoptr(GString) names = g_string_new(NULL);
  static const char *const lists[] = {"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names",
      "/proc/thread-self/net/arp_tables_names"};
  for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
    g_autofree char *text = NULL;
    if (g_file_get_contents(lists[i], &text, NULL, NULL))
      g_string_append(names, text);
  }
  g_strdelimit(names->str, "\n", ' ');
  (void)g_strstrip(names->str);
  return *names->str ? g_string_free(g_steal_pointer(&names), FALSE) : NULL;
}
