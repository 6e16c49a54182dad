/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A tunnel's end: counts the UDP packets to port 4242 that come through. Argument after BASE: tun or tap. */

#include "subject.h"
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#define TUN_FD 30
#define IDLE_FD 31

static int count(bool tap) {
  unsigned char packet[2048];
  int found = 0;
  ssize_t n;
  while ((n = read(TUN_FD, packet, sizeof packet)) > 0) {
    const unsigned char *ip = packet + (tap ? 14 : 0);
    if (n > (tap ? 14 : 0) + 28 && ip[0] == 0x45 && ip[9] == 17 && ip[22] == (4242 >> 8) && ip[23] == (4242 & 0xff))
      found++;
  }
  check(n < 0 && errno == EAGAIN, "the tunnel cannot be read: %s", strerror(errno));
  return found;
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  bool tap = argc > 2 && strcmp(argv[2], "tap") == 0;
  struct ifreq request = {.ifr_flags = (tap ? IFF_TAP : IFF_TUN) | IFF_NO_PI, .ifr_name = "cptest0"};
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK), idle = open("/dev/net/tun", O_RDWR);
  if (fd < 0)
    subject_skip("no /dev/net/tun");
  check_call(dup2(fd, TUN_FD) == TUN_FD && dup2(idle, IDLE_FD) == IDLE_FD && close(fd) == 0 && close(idle) == 0);
  check_call(ioctl(TUN_FD, TUNSETIFF, &request) == 0);
  int buffer = 77777;
  check_call(ioctl(TUN_FD, TUNSETSNDBUF, &buffer) == 0);
  subject_ready();
  int found = 0;
  while (!subject_checking()) {
    found += count(tap);
    subject_tick();
  }
  found += count(tap);
  check(found == 2, "%d packets came through, one before and one after", found);
  check_call(ioctl(TUN_FD, TUNGETIFF, &request) == 0);
  check(strcmp(request.ifr_name, "cptest0") == 0, "the device is called %s", request.ifr_name);
  buffer = 0;
  check_call(ioctl(TUN_FD, TUNGETSNDBUF, &buffer) == 0);
  check(buffer == 77777, "the send buffer is %d", buffer);
  check(ioctl(IDLE_FD, TUNGETIFF, &request) < 0 && errno == EBADFD, "the idle descriptor has a device");
  return subject_pass();
}
