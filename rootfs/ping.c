/*
 * The ping of the image `busybox`: ICMP echo by datagram sockets (icmp(7)), which need no privilege where the group is in
 * net.ipv4.ping_group_range. A container has no CAP_NET_RAW, and the ping of most busyboxes opens raw sockets alone.
 *
 * build.rs compiles it, src/image/busybox.rs writes it into the image. Options, output and exit codes are busybox's, but
 * for two: -i, -W and -w take fractions, and -W is kept to also after a first reply.
 *
 * The kernel owns the identifier and the checksum of a request, and hands a socket nothing but replies with its identifier.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
/* After time.h, whose struct timespec it needs. */
#include <linux/errqueue.h>

enum { HEADER = 8, MAX_DATA = 65527, SECOND = 1000000 };

/* All times are in microseconds. */
static int64_t interval = SECOND, reply_wait = 10 * SECOND, deadline;
static uint64_t count, transmitted, received, duplicates;
static int64_t fastest = INT64_MAX, slowest, total;
static bool quiet, adaptive;
/* By the 16 bits of the sequence number: 0 is never sent. */
static int64_t sent_at[1 << 16];
static bool answered[1 << 16];
static unsigned char packet[HEADER + MAX_DATA + 1];
static struct addrinfo *target;
static const char *program = "ping";

static _Noreturn void die(const char *what, const char *why)
{
	fflush(stdout);
	fprintf(stderr, "%s: %s%s%s\n", program, what, why ? ": " : "", why ? why : "");
	exit(1);
}

static _Noreturn void usage(void)
{
	fprintf(stderr,
		"Usage: %s [OPTIONS] HOST\n\n"
		"Send ICMP ECHO_REQUESTs to HOST\n\n"
		"\t-4,-6\t\tForce IPv4 or IPv6\n"
		"\t-c CNT\t\tSend only CNT pings\n"
		"\t-s SIZE\t\tSend SIZE data bytes in packets (default 56)\n"
		"\t-i SECS\t\tInterval\n"
		"\t-A\t\tPing as soon as reply is received\n"
		"\t-t TTL\t\tSet TTL\n"
		"\t-I IFACE/IP\tSource interface or IP address\n"
		"\t-W SEC\t\tSeconds to wait for replies after all -c CNT packets are sent (default 10)\n"
		"\t-w SEC\t\tSeconds until ping exits (default: infinite)\n"
		"\t-q\t\tQuiet, only display output at start/finish\n"
		"\t-p HEXBYTE\tPayload pattern\n",
		program);
	exit(1);
}

static _Noreturn void invalid(const char *text)
{
	char what[80];
	snprintf(what, sizeof what, "invalid number '%.50s'", text);
	die(what, NULL);
}

static uint64_t number(const char *text, int base, uint64_t max)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, base);
	/* strtoull takes a sign and spaces. */
	if (errno || end == text || *end || value > max || strspn(text, "+- \t\n"))
		invalid(text);
	return value;
}

/* Digits with a fraction or without, as microseconds. By hand: strtod would take `inf`, and more room. */
static int64_t seconds(const char *text)
{
	int64_t value = 0, unit = SECOND;
	const char *at = text;
	for (; *at >= '0' && *at <= '9' && value < INT32_MAX; at++)
		value = value * 10 + (*at - '0');
	value *= SECOND;
	if (*at == '.' && at[1])
		for (at++; *at >= '0' && *at <= '9'; at++)
			value += (*at - '0') * (unit /= 10);
	if (*at || at == text)
		invalid(text);
	return value;
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * SECOND + time.tv_nsec / 1000;
}

/* The address as text, with the interface where it is link-local. */
static const char *numeric(const void *address, socklen_t length)
{
	static char text[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE];
	if (getnameinfo(address, length, text, sizeof text, NULL, 0, NI_NUMERICHOST))
		strcpy(text, "?");
	return text;
}

static bool is_v6(void)
{
	return target->ai_family == AF_INET6;
}

static void set(int fd, int v4_name, int v6_name, int value)
{
	if (setsockopt(fd, is_v6() ? IPPROTO_IPV6 : IPPROTO_IP, is_v6() ? v6_name : v4_name, &value, sizeof value))
		die("setsockopt", strerror(errno));
}

static int open_socket(void)
{
	int fd = socket(target->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, is_v6() ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP);
	if (fd < 0 && errno == EACCES)
		die("permission denied", "the group is not in net.ipv4.ping_group_range");
	if (fd < 0)
		die("socket", strerror(errno));
	set(fd, IP_RECVTTL, IPV6_RECVHOPLIMIT, 1);
	set(fd, IP_RECVERR, IPV6_RECVERR, 1);
	int on = 1;
	setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
	return fd;
}

static void account(const struct msghdr *message, size_t size)
{
	uint16_t sequence = (uint16_t)(packet[6] << 8 | packet[7]);
	if (size < HEADER || packet[0] != (is_v6() ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY) || !sent_at[sequence])
		return;
	int64_t took = now() - sent_at[sequence];
	int ttl = -1;
	/* The only control message that was asked for, but for errors, which come by their own queue. */
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	if (control && control->cmsg_len == CMSG_LEN(sizeof ttl))
		memcpy(&ttl, CMSG_DATA(control), sizeof ttl);
	bool duplicate = answered[sequence];
	answered[sequence] = true;
	*(duplicate ? &duplicates : &received) += 1;
	total += took;
	fastest = took < fastest ? took : fastest;
	slowest = took > slowest ? took : slowest;
	if (quiet)
		return;
	printf("%zu bytes from %s: seq=%u", size, numeric(message->msg_name, message->msg_namelen), sequence);
	if (ttl >= 0)
		printf(" ttl=%d", ttl);
	printf(" time=%" PRId64 ".%03" PRId64 " ms%s\n", took / 1000, took % 1000, duplicate ? " (DUP!)" : "");
}

/* Tells of an ICMP error, of which the packet is the request that caused it. */
static void report(const struct msghdr *message, size_t size)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	while (control && control->cmsg_type != (is_v6() ? IPV6_RECVERR : IP_RECVERR))
		control = CMSG_NXTHDR((struct msghdr *)message, control);
	if (quiet || !control)
		return;
	const struct sock_extended_err *error = (const void *)CMSG_DATA(control);
	if (size < HEADER || (error->ee_origin != SO_EE_ORIGIN_ICMP && error->ee_origin != SO_EE_ORIGIN_ICMP6))
		return;
	bool exceeded = error->ee_type == (is_v6() ? ICMP6_TIME_EXCEEDED : ICMP_TIME_EXCEEDED);
	printf("From %s: seq=%u %s\n", numeric(SO_EE_OFFENDER(error), target->ai_addrlen), packet[6] << 8 | packet[7],
	       exceeded ? "Time to live exceeded" : strerror((int)error->ee_errno));
}

/* Takes all that is queued, and tells whether there was any. */
static bool drain(int fd, int queue, void (*take)(const struct msghdr *, size_t))
{
	for (bool any = false;; any = true) {
		struct sockaddr_storage from;
		_Alignas(struct cmsghdr) char control[512];
		struct iovec data = { packet, sizeof packet };
		struct msghdr message = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &data, .msg_iovlen = 1,
					  .msg_control = control, .msg_controllen = sizeof control };
		ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT | queue);
		if (size < 0)
			return any;
		take(&message, (size_t)size);
	}
}

static void send_request(int fd, size_t size, int pattern)
{
	uint16_t sequence = (uint16_t)transmitted++;
	memset(packet, pattern, HEADER + size);
	memset(packet, 0, HEADER);
	packet[0] = is_v6() ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
	packet[6] = (unsigned char)(sequence >> 8);
	packet[7] = (unsigned char)sequence;
	answered[sequence] = false;
	/* The first attempt may give the error of an earlier request, which the queue of errors has too. */
	for (int attempt = 0; attempt < 2; attempt++) {
		sent_at[sequence] = now();
		/* A full queue of the interface is a lost packet. */
		if (sendto(fd, packet, HEADER + size, 0, target->ai_addr, target->ai_addrlen) >= 0 || errno == ENOBUFS)
			return;
	}
	die("sendto", strerror(errno));
}

static int statistics(const char *host)
{
	printf("\n--- %s ping statistics ---\n%" PRIu64 " packets transmitted, %" PRIu64 " packets received, ", host,
	       transmitted, received);
	if (duplicates)
		printf("%" PRIu64 " duplicates, ", duplicates);
	printf("%" PRIu64 "%% packet loss\n", transmitted ? (transmitted - received) * 100 / transmitted : 0);
	if (received) {
		int64_t mean = total / (int64_t)(received + duplicates);
		printf("round-trip min/avg/max = %" PRId64 ".%03" PRId64 "/%" PRId64 ".%03" PRId64 "/%" PRId64 ".%03" PRId64
		       " ms\n", fastest / 1000, fastest % 1000, mean / 1000, mean % 1000, slowest / 1000, slowest % 1000);
	}
	return received == 0 || (deadline && received < count);
}

/* Sends and receives until the count, a time or SIGINT ends it. */
static void exchange(int fd, size_t size, int pattern)
{
	sigset_t interrupt;
	sigemptyset(&interrupt);
	sigaddset(&interrupt, SIGINT);
	sigprocmask(SIG_BLOCK, &interrupt, NULL);
	/* Polled beside the socket: a handler could run between the look at its flag and the poll. */
	struct pollfd polled[] = { { .fd = fd, .events = POLLIN },
				   { .fd = signalfd(-1, &interrupt, SFD_CLOEXEC), .events = POLLIN } };
	int64_t end = deadline ? now() + deadline : INT64_MAX;
	for (int64_t next = now();;) {
		int64_t time = now();
		if (time >= end)
			return;
		if (time >= next) {
			if (count && transmitted == count)
				return;
			send_request(fd, size, pattern);
			next = time + (transmitted == count ? reply_wait : interval);
		}
		int64_t left = (next < end ? next : end) - now();
		struct timespec timeout = { .tv_sec = left / SECOND, .tv_nsec = left % SECOND * 1000 };
		if (left < 0)
			timeout = (struct timespec){ 0 };
		if (ppoll(polled, 2, &timeout, NULL) <= 0)
			continue;
		if (polled[1].revents)
			return;
		uint64_t before = received;
		drain(fd, MSG_ERRQUEUE, report);
		drain(fd, 0, account);
		if (count && received >= count)
			return;
		if (adaptive && received > before && transmitted != count)
			next = now();
	}
}

static struct addrinfo *resolve(const char *host, int family, int flags)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_DGRAM, .ai_flags = flags }, *found = NULL;
	return getaddrinfo(host, NULL, &hints, &found) ? NULL : found;
}

int main(int argc, char **argv)
{
	int family = AF_UNSPEC, ttl = 0, pattern = 0, option;
	size_t size = 56;
	const char *source = NULL;
	size_t length = argc ? strlen(argv[0]) : 0;
	if (length && argv[0][length - 1] == '6') {
		program = "ping6";
		family = AF_INET6;
	}
	while ((option = getopt(argc, argv, "46Aqnvc:i:I:p:s:t:w:W:")) != -1) {
		switch (option) {
		case '4': family = AF_INET; break;
		case '6': family = AF_INET6; break;
		case 'A': adaptive = true; break;
		case 'q': quiet = true; break;
		case 'n': case 'v': break; /* What it does anyway. */
		case 'c': count = number(optarg, 10, INT64_MAX); break;
		case 'i': interval = seconds(optarg); break;
		case 'I': source = optarg; break;
		case 'p': pattern = (int)number(optarg, 16, 255); break;
		case 's': size = number(optarg, 10, MAX_DATA); break;
		case 't': ttl = (int)number(optarg, 10, 255); break;
		case 'w': deadline = seconds(optarg); break;
		case 'W': reply_wait = seconds(optarg); break;
		default: usage();
		}
	}
	if (optind + 1 != argc)
		usage();
	/* Not as fast as the processor can. */
	if (interval < 1000)
		interval = 1000;
	const char *host = argv[optind];
	struct addrinfo *from = source ? resolve(source, family, AI_NUMERICHOST) : NULL;
	target = resolve(host, from ? from->ai_family : family, 0);
	if (!target) {
		char what[300];
		snprintf(what, sizeof what, "bad address '%.255s'", host);
		die(what, NULL);
	}
	int fd = open_socket();
	if (ttl) {
		set(fd, IP_TTL, IPV6_UNICAST_HOPS, ttl);
		set(fd, IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, ttl);
	}
	if (from && bind(fd, from->ai_addr, from->ai_addrlen))
		die("bind", strerror(errno));
	if (source && !from && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, source, (socklen_t)strlen(source) + 1))
		die(source, strerror(errno));
	/* A reader at a pipe sees each reply as it comes. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("PING %s (%s)", host, numeric(target->ai_addr, target->ai_addrlen));
	if (from)
		printf(" from %s", numeric(from->ai_addr, from->ai_addrlen));
	printf(": %zu data bytes\n", size);
	exchange(fd, size, pattern);
	return statistics(host);
}
