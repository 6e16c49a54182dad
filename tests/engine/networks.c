/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Network namespaces of the tree's own.
 *
 *   content    links (lo, pairs, a bridge), addresses, routes, rules, neighbours, settings, nftables
 *   sockets    of three namespaces, two of them the tree's own, in each other's hands, with connections between them
 *   empty      one that nothing was ever done in */
#include "subject.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define NETNS_COOKIE 71 /* SO_NETNS_COOKIE */

static void run(const char *command) {
  check(system(command) == 0, "cannot do: %s", command);
}

static char *output_of(const char *command) {
  char *text = calloc(1, 65536);
  size_t n = 0;
  FILE *f = popen(command, "r");
  check_call(text && f);
  while (n < 65535 && !feof(f))
    n += fread(text + n, 1, 65535 - n, f);
  check(pclose(f) == 0, "cannot do: %s", command);
  return text;
}

static ino_t net_inode(void) {
  struct stat st;
  check_call(stat("/proc/self/ns/net", &st) == 0);
  return st.st_ino;
}

/* --- content --- */

static const char make_content[] =
    "set -e; sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ip link set lo up; ip link add br0 type bridge forward_delay 700; ip link add ve0 mtu 1400 type veth peer name ve1; "
    "ip link set ve0 address 02:00:00:00:07:01; ip link set ve0 txqueuelen 77; ip link set ve1 alias 'the other end'; ip link set ve1 master br0; "
    "ip link set ve1 type bridge_slave cost 42 hairpin on; ip link add later type ifb; ip link set ve1 up; ip link set br0 up; ip link set ve0 up; "
    "ip addr add 10.5.0.2/24 brd + dev ve0 label ve0:x; ip addr add 10.5.0.3/24 dev ve0; ip addr add 10.5.0.1/24 dev br0; "
    "ip addr add fd05::2/64 dev ve0 nodad; "
    "ip route add default via 10.5.0.1 dev ve0 metric 5; ip route add 10.6.0.0/16 via 10.5.0.1 dev ve0 table 66; ip route add blackhole 10.7.0.0/16; "
    "ip route add 10.8.0.0/16 nexthop via 10.5.0.1 dev ve0 weight 2 nexthop via 10.5.0.9 dev br0 weight 1; "
    "ip -6 route add fd06::/64 via fd05::1 dev ve0; ip -6 route add unreachable fd08::/64 table 66; ip rule add fwmark 7 table 66 pref 1000; ip rule del pref 32767; ip -6 rule add from fd05::2 table 66 pref 99; "
    "ip neigh add 10.5.0.77 lladdr 02:00:00:00:00:77 dev ve0 nud permanent; ip neigh add fd05::77 lladdr 02:00:00:00:00:77 dev ve0 nud permanent; "
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.ip_default_ttl=99 net.ipv4.conf.default.rp_filter=2 net.ipv4.conf.ve0.arp_ignore=2 "
    "net.ipv4.conf.lo.log_martians=1 net.ipv6.conf.ve0.accept_dad=2 net.ipv6.conf.ve0.accept_ra=0 net.ipv4.ping_group_range='5 6' net.core.somaxconn=77 net.unix.max_dgram_qlen=33; "
    "nft add table inet t; nft add set inet t s '{ type ipv4_addr; elements = { 10.1.1.1, 10.2.2.2 }; }'; "
    "nft add chain inet t c '{ type filter hook input priority 5; policy accept; }'; nft add rule inet t c ip saddr @s tcp dport 77 counter drop";

/* What comes and goes by itself (carriers, queues) is left out. */
static const char show_content[] =
    "(ip -o -d link; ip -o addr; ip route show table main; ip route show table 66; ip -6 route show table main; ip -6 route show table 66; ip rule; ip -6 rule; ip neigh show nud permanent; "
    "sysctl net.ipv4.ip_forward net.ipv4.ip_default_ttl net.ipv4.conf.default.rp_filter net.ipv4.conf.ve0.arp_ignore net.ipv4.conf.all.forwarding "
    "net.ipv4.conf.lo.log_martians net.ipv6.conf.ve0.accept_ra net.ipv6.conf.ve0.accept_dad net.ipv4.ping_group_range net.core.somaxconn "
    "net.unix.max_dgram_qlen; nft list ruleset) | "
    "sed -E 's/(state|qdisc|operstate) [A-Za-z_]+//; s/,?(LOWER_UP|NO-CARRIER|M-DOWN)//g; s/(linkdown|dead|tentative) ?//g; s/[a-z_]*timer +[0-9.]+//g; s/ (gc|tcn|hello|topology_change)_timer[^ ]* [^ ]+//g; "
    "s/state [a-z]+ priority/priority/; s/proto kernel_ll //; s/forwarding priority/priority/'";

static void differ(const char *before, const char *after) {
  size_t i = 0, line = 0;
  while (before[i] && before[i] == after[i]) {
    line = before[i] == '\n' ? i + 1 : line;
    i++;
  }
  if (before[i] != after[i])
    subject_fail("it was: %.300s\nit is: %.300s", before + line, after + line);
}

static void test_content(void) {
  check_call(unshare(CLONE_NEWNET) == 0);
  run(make_content);
  char *before = output_of(show_content);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  char *after = output_of(show_content);
  differ(before, after);
  run("ip link del br0"); /* it is alive, too */
}

/* --- sockets --- */

static struct sockaddr_in inet_address(const char *ip, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  check_call(inet_pton(AF_INET, ip, &a.sin_addr) == 1);
  return a;
}

static int bound(int type, const char *ip, int port) {
  struct sockaddr_in a = inet_address(ip, port);
  int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 && bind(fd, (void *)&a, sizeof a) == 0);
  return fd;
}

static int connected(const char *ip, int port) {
  struct sockaddr_in a = inet_address(ip, port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && connect(fd, (void *)&a, sizeof a) == 0);
  return fd;
}

static int abstract(const char *name) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  size_t n = strlen(name);
  memcpy(a.sun_path + 1, name, n);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && bind(fd, (void *)&a, (socklen_t)(sizeof(sa_family_t) + 1 + n)) == 0);
  return fd;
}

static uint64_t cookie_of(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  check_call(getsockopt(fd, SOL_SOCKET, NETNS_COOKIE, &cookie, &size) == 0);
  return cookie;
}

static void send_fd(int to, int fd) {
  union {
    struct cmsghdr h;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.h = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)}};
  char byte = 'f';
  struct iovec iov = {&byte, 1};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
  memcpy(CMSG_DATA(&control.h), &fd, sizeof fd);
  check_call(sendmsg(to, &m, 0) == 1);
}

static int receive_fd(int from) {
  char room[CMSG_SPACE(sizeof(int))], byte;
  struct iovec iov = {&byte, 1};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  check_call(recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m));
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
  return fd;
}

static char abstract_name[64];

/* Lives in a namespace of its own behind a pair, or (@home) where the test was started. Answers questions: 'n' where it is, 'p'
 * sends through the connection that it has to its parent, 'a' whether its name is still its own. */
static pid_t fork_other(int *ret_fd, bool home) {
  int ends[2];
  check_call(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  pid_t pid = fork();
  check_call(pid >= 0);
  if (pid > 0) {
    (void)close(ends[1]);
    *ret_fd = ends[0];
    return pid;
  }
  (void)close(ends[0]);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int stream = -1, name = -1;
  if (!home) {
    char byte;
    check_call(unshare(CLONE_NEWNET) == 0 && write(ends[1], "r", 1) == 1 && read(ends[1], &byte, 1) == 1);
    run("ip link set lo up && ip link set pair1 up && ip addr add 10.5.1.2/24 dev pair1");
    stream = connected("10.5.1.1", 7001);
    send_fd(ends[1], bound(SOCK_DGRAM, "10.5.1.2", 7002));
  }
  name = abstract(abstract_name);
  check_call(write(ends[1], "R", 1) == 1);
  for (char c; read(ends[1], &c, 1) == 1;) {
    uint64_t number = c == 'n' ? net_inode() : cookie_of(name) == cookie_of(socket(AF_INET, SOCK_DGRAM, 0));
    if (c == 'p')
      number = (uint64_t)write(stream, "over the wire", 13);
    check_call(write(ends[1], &number, sizeof number) == sizeof number);
  }
  _exit(0);
}

static uint64_t ask(int fd, char what) {
  uint64_t number = 0;
  check_call(write(fd, &what, 1) == 1 && read(fd, &number, sizeof number) == sizeof number);
  return number;
}

static void check_stream(int from, int to, const char *text) {
  char got[64] = "";
  size_t n = strlen(text);
  check_call(write(from, text, n) == (ssize_t)n && recv(to, got, n, MSG_WAITALL) == (ssize_t)n);
  check(memcmp(got, text, n) == 0, "the connection brings '%s' for '%s'", got, text);
}

typedef struct Sockets {
  int listener, client, server; /* over lo */
  int wire_listener, wire;      /* from the child's namespace */
  int udp, name, routes, packets;
  int foreign; /* of the child's namespace */
  int of_home; /* of the one that the test was started in */
  int here_ns, home_ns;
} Sockets;

static Sockets make_sockets(void) {
  Sockets s = {.of_home = -1};
  s.listener = bound(SOCK_STREAM, "127.0.0.1", 7000);
  check_call(listen(s.listener, 5) == 0);
  s.client = connected("127.0.0.1", 7000);
  s.server = accept4(s.listener, NULL, NULL, SOCK_CLOEXEC);
  s.wire_listener = bound(SOCK_STREAM, "10.5.1.1", 7001);
  check_call(s.server >= 0 && listen(s.wire_listener, 5) == 0);
  s.udp = bound(SOCK_DGRAM, "127.0.0.1", 7003);
  s.name = abstract(abstract_name);
  struct sockaddr_nl nl = {.nl_family = AF_NETLINK};
  s.routes = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  check_call(s.routes >= 0 && bind(s.routes, (void *)&nl, sizeof nl) == 0);
  struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_LOOP), .sll_ifindex = (int)if_nametoindex("pair0")};
  s.packets = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_LOOP));
  check_call(s.packets >= 0 && bind(s.packets, (void *)&ll, sizeof ll) == 0);
  return s;
}

static void check_sockets(const Sockets *s, int with, int home, bool apart) {
  char text[64] = "";
  uint64_t here = cookie_of(s->udp);
  const int mine[] = {s->listener, s->client, s->server, s->wire_listener, s->wire, s->name, s->routes, s->packets};
  for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
    check(cookie_of(mine[i]) == here, "socket %zu is in another namespace", i);
  check(cookie_of(s->foreign) != here && cookie_of(s->of_home) != here && cookie_of(s->foreign) != cookie_of(s->of_home),
      "sockets of three namespaces are not in three");
  check_stream(s->client, s->server, "there");
  check_stream(s->server, s->client, "and back");
  check(ask(with, 'p') == 13, "the child cannot send");
  check(recv(s->wire, text, 13, MSG_WAITALL) == 13 && strcmp(text, "over the wire") == 0, "'%s' came through the pair", text);
  struct sockaddr_in there = inet_address("10.5.1.2", 7002);
  int outgoing = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  check_call(sendto(outgoing, "datagram", 8, 0, (void *)&there, sizeof there) == 8);
  struct pollfd p = {.fd = s->foreign, .events = POLLIN};
  check(poll(&p, 1, 20000) == 1 && recv(s->foreign, text, sizeof text, 0) == 8, "no datagram has come through the pair");
  (void)close(outgoing);
  struct stat here_ns, home_ns;
  check_call(fstat(s->here_ns, &here_ns) == 0 && fstat(s->home_ns, &home_ns) == 0);
  check(here_ns.st_ino == net_inode() && home_ns.st_ino == ask(home, 'n'), "descriptors of namespaces lead to others");
  check(ask(with, 'a') == 1 && ask(home, 'a') == 1, "the children's names are in other namespaces than they");
  check(ask(with, 'n') != net_inode() && ask(home, 'n') != net_inode() && ask(with, 'n') != ask(home, 'n'), "three are not in three namespaces%s",
      apart ? "" : " any more");
}

static void test_sockets(void) {
  int with = -1, home = -1;
  char byte, command[160];
  Sockets s;
  (void)snprintf(abstract_name, sizeof abstract_name, "networks-%d", (int)getpid());
  int home_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  int of_home = bound(SOCK_DGRAM, "127.0.0.1", 0);
  (void)fork_other(&home, true);
  check_call(read(home, &byte, 1) == 1 && byte == 'R');
  check_call(unshare(CLONE_NEWNET) == 0);
  pid_t child = fork_other(&with, false);
  check_call(read(with, &byte, 1) == 1 && byte == 'r');
  (void)snprintf(command, sizeof command,
      "ip link set lo up && ip link add pair0 type veth peer name pair1 netns %d && ip link set pair0 up && ip addr add 10.5.1.1/24 dev pair0", (int)child);
  run(command);
  s = make_sockets();
  s.of_home = of_home;
  s.home_ns = home_ns;
  s.here_ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  check_call(write(with, "g", 1) == 1);
  s.wire = accept4(s.wire_listener, NULL, NULL, SOCK_CLOEXEC);
  check_call(s.wire >= 0);
  s.foreign = receive_fd(with);
  check_call(read(with, &byte, 1) == 1 && byte == 'R');
  check_sockets(&s, with, home, true);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check_sockets(&s, with, home, false);
}

/* --- empty --- */

static void test_empty(void) {
  ino_t before = net_inode();
  check_call(unshare(CLONE_NEWNET) == 0);
  subject_ready();
  while (!subject_checking())
    subject_tick();
  check(net_inode() != before, "it is where it began");
  char *links = output_of("ip -o link | wc -l; ip -o addr | wc -l");
  check(strcmp(links, "1\n0\n") == 0, "links and addresses: %s", links);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  const char *what = argc > 2 ? argv[2] : "content";
  if (strcmp(what, "content") == 0)
    test_content();
  else if (strcmp(what, "sockets") == 0)
    test_sockets();
  else if (strcmp(what, "empty") == 0)
    test_empty();
  else
    subject_fail("what is %s?", what);
  return subject_pass();
}
