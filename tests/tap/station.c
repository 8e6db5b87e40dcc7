/* A station on a tap device: `station DEVICE`. It has every IPv4 address: it answers each ARP request and each echo request that the
   kernel sends by the device, and sends an echo request of its own to whoever sent one first. Prints what happens. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const uint8_t OWN[6] = {2, 0, 0, 0, 0, 9};

static uint16_t sum(const uint8_t *bytes, int length) {
    uint32_t sum = 0;
    for (int at = 0; at + 1 < length; at += 2) sum += bytes[at] << 8 | bytes[at + 1];
    if (length & 1) sum += bytes[length - 1] << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static void answer_to(uint8_t *frame) {
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, OWN, 6);
}

static void set_sum(uint8_t *icmp, int length) {
    icmp[2] = icmp[3] = 0;
    uint16_t of = sum(icmp, length);
    icmp[2] = of >> 8, icmp[3] = of & 0xff;
}

static void say(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
}

int main(int count, char **words) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int tun = open("/dev/net/tun", O_RDWR);
    if (tun < 0 || count < 2) return printf("open: %s\n", strerror(errno)), 1;
    strncpy(request.ifr_name, words[1], IFNAMSIZ - 1);
    if (ioctl(tun, TUNSETIFF, &request)) return printf("attach: %s\n", strerror(errno)), 1;
    say("attached");
    for (uint8_t frame[2048], asked = 0;;) {
        int length = read(tun, frame, sizeof frame);
        if (length < 0) return perror("read"), 1;
        uint8_t *ip = frame + 14, *icmp = ip + 20, target[4];
        if (length >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 1) {
            /* ARP: who has the target address? I. */
            answer_to(frame);
            frame[21] = 2;
            memcpy(target, frame + 38, 4);
            memcpy(frame + 32, frame + 22, 10);
            memcpy(frame + 22, OWN, 6);
            memcpy(frame + 28, target, 4);
            if (write(tun, frame, length) != length) perror("write");
        } else if (length >= 42 && frame[12] == 8 && frame[13] == 0 && ip[9] == 1 && icmp[0] == 8) {
            answer_to(frame);
            memcpy(target, ip + 16, 4);
            memcpy(ip + 16, ip + 12, 4);
            memcpy(ip + 12, target, 4);
            icmp[0] = 0;
            set_sum(icmp, length - 34);
            if (write(tun, frame, length) != length) perror("write");
            say("answered");
            if (asked) continue;
            asked = icmp[0] = 8;
            set_sum(icmp, length - 34);
            if (write(tun, frame, length) != length) perror("write");
        } else if (length >= 42 && frame[12] == 8 && frame[13] == 0 && ip[9] == 1 && icmp[0] == 0) {
            say("was answered");
        }
    }
}
