/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packet sockets: their options, addresses, fan-outs, filters, and their rings, which still fill and empty. */
#include "subject.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BLOCK 8192
#define BLOCKS 4
#define FRAME 2048
#define FRAMES (BLOCK / FRAME * BLOCKS)

static int lo;
static unsigned short kind; /* an ethertype of this run's own */

static int opened(int type, int version) {
  int fd = socket(AF_PACKET, type | SOCK_CLOEXEC, 0);
  check_call(fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0);
  return fd;
}

static void bind_to_lo(int fd) {
  struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(kind), .sll_ifindex = lo};
  check_call(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
}

static void send_frame(const char *text) {
  int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(kind), .sll_ifindex = lo, .sll_halen = 6};
  check_call(fd >= 0 && sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, sizeof a) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void set(int fd, int option, int value) {
  check(setsockopt(fd, SOL_PACKET, option, &value, sizeof value) == 0, "option %d: %s", option, strerror(errno));
}

static int get(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_PACKET, option, &value, &size) == 0 ? value : -1;
}

/* Hears only frames that begin with a letter, of which it gets twenty bytes. */
static int plain_socket(int fanout) {
  struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 'A', 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 20), BPF_STMT(BPF_RET | BPF_K, 0)};
  struct sock_fprog filter = {4, code};
  struct packet_mreq all = {.mr_ifindex = lo, .mr_type = PACKET_MR_PROMISC};
  struct packet_mreq group = {.mr_ifindex = lo, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 94, 1, 2, 3}};
  int fd = opened(SOCK_RAW, TPACKET_V1);
  check_call(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
  set(fd, PACKET_AUXDATA, 1);
  set(fd, PACKET_ORIGDEV, 1);
  set(fd, PACKET_TIMESTAMP, SOF_TIMESTAMPING_RAW_HARDWARE);
  set(fd, PACKET_RESERVE, 32);
  set(fd, PACKET_QDISC_BYPASS, 1);
  set(fd, PACKET_IGNORE_OUTGOING, 1);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) == 0);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group) == 0);
  bind_to_lo(fd);
  set(fd, PACKET_FANOUT, fanout | PACKET_FANOUT_LB << 16);
  return fd;
}

static void plain_hold(int fd, int fanout) {
  struct sockaddr_ll a = {0};
  socklen_t size = sizeof a;
  check(getsockname(fd, (struct sockaddr *)&a, &size) == 0 && a.sll_ifindex == lo && a.sll_protocol == htons(kind), "it is bound elsewhere");
  check(get(fd, PACKET_AUXDATA) == 1 && get(fd, PACKET_ORIGDEV) == 1 && get(fd, PACKET_TIMESTAMP) == SOF_TIMESTAMPING_RAW_HARDWARE &&
            get(fd, PACKET_RESERVE) == 32 && get(fd, PACKET_QDISC_BYPASS) == 1 && get(fd, PACKET_IGNORE_OUTGOING) == 1, "options");
  char *addresses = subject_read("/proc/net/dev_mcast", NULL);
  check(strstr(addresses, "01005e010203"), "the address is not listened at");
  free(addresses);
  check(get(fd, PACKET_FANOUT) == (fanout | PACKET_FANOUT_LB << 16), "fanout 0x%x", get(fd, PACKET_FANOUT));
}

static void plain_check(int fd) {
  char frame[64] = "";
  while (recv(fd, frame, sizeof frame, MSG_DONTWAIT) > 0)
    ;
  send_frame("0 not a letter");
  send_frame("A letter");
  struct pollfd p = {.fd = fd, .events = POLLIN};
  memset(frame, 0, sizeof frame);
  check(poll(&p, 1, 30000) == 1 && recv(fd, frame, sizeof frame, 0) == 20 && strcmp(frame + 14, "A lett") == 0, "heard \"%s\"", frame + 14);
}

static char *ring_map(int fd, size_t size) {
  char *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  check_call(ring != MAP_FAILED);
  return ring;
}

static int ring_socket(char **ret_ring) {
  struct tpacket_req request = {.tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME, .tp_frame_nr = FRAMES};
  int fd = opened(SOCK_DGRAM, TPACKET_V2);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request) == 0);
  *ret_ring = ring_map(fd, 2 * (size_t)BLOCK * BLOCKS);
  bind_to_lo(fd);
  return fd;
}

/* Somewhere in the ring lies the text. */
static bool in_ring(const char *ring, size_t size, const char *text) {
  return memmem(ring, size, text, strlen(text));
}

static void ring_check(int fd, char *ring) {
  size_t half = (size_t)BLOCK * BLOCKS;
  send_frame("Into the ring");
  struct pollfd p = {.fd = fd, .events = POLLIN};
  check(poll(&p, 1, 30000) == 1 && in_ring(ring, half, "Into the ring"), "nothing comes into the ring");
  struct tpacket2_hdr *frame = (struct tpacket2_hdr *)(void *)(ring + half);
  const char text[] = "Out of the ring";
  struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(kind), .sll_ifindex = lo, .sll_halen = 6};
  memcpy((char *)frame + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), text, sizeof text);
  frame->tp_len = sizeof text;
  frame->tp_status = TP_STATUS_SEND_REQUEST;
  check_call(sendto(fd, NULL, 0, 0, (struct sockaddr *)&a, sizeof a) == sizeof text);
  check(subject_await(in_ring(ring, half, text)), "nothing goes out of the ring");
}

static int blocks_socket(char **ret_ring) {
  struct tpacket_req3 request = {.tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME, .tp_frame_nr = FRAMES,
      .tp_retire_blk_tov = 20, .tp_sizeof_priv = 16, .tp_feature_req_word = TP_FT_REQ_FILL_RXHASH};
  int fd = opened(SOCK_RAW, TPACKET_V3);
  check_call(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0);
  *ret_ring = ring_map(fd, (size_t)BLOCK * BLOCKS);
  bind_to_lo(fd);
  return fd;
}

static void blocks_check(int fd, const char *ring) {
  send_frame("Into a block");
  struct pollfd p = {.fd = fd, .events = POLLIN};
  check(poll(&p, 1, 30000) == 1 && in_ring(ring, (size_t)BLOCK * BLOCKS, "Into a block"), "nothing comes into the blocks");
  check(get(fd, PACKET_VERSION) == TPACKET_V3, "version");
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  lo = (int)if_nametoindex("lo");
  kind = (unsigned short)(0x9000 + getpid() % 0x1000);
  int fanout = getpid() & 0xffff;
  char *ring, *blocks;
  int plain = plain_socket(fanout), with_ring = ring_socket(&ring), with_blocks = blocks_socket(&blocks);
  int idle = socket(AF_PACKET, SOCK_RAW, 0);
  check_call(idle >= 0);
  subject_ready();
  for (bool last = false; !last; subject_tick()) {
    last = subject_checking();
    plain_hold(plain, fanout);
  }
  plain_check(plain);
  ring_check(with_ring, ring);
  blocks_check(with_blocks, blocks);
  check(fcntl(idle, F_GETFL) == O_RDWR, "the one that is not bound");
  return subject_pass();
}
