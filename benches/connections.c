// Opens and closes connections as fast as one thread can, one after the other.
//
//   connections serve PORT                      takes connections at all addresses, says one byte to each, until it is killed
//   connections ask ADDRESS PORT MILLISECONDS   prints how many a second came about
//
// A connection counts when its byte has come: it was taken, translated both ways and accepted. It ends by a reset, so that no port waits
// for late packets (TIME_WAIT) and the next 28,000 connections find one that is free.
//
//   cc -O2 -static -o connections connections.c
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
  perror(what);
  exit(1);
}

static long long now(void) { // nanoseconds
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void serve(int port) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
      bind(listener, (void *)&any, sizeof any) || listen(listener, 128))
    die("listen");
  for (;;) {
    int peer = accept4(listener, 0, 0, SOCK_CLOEXEC);
    if (peer < 0)
      continue;
    char byte;
    send(peer, "x", 1, MSG_NOSIGNAL);
    // Until the client's reset: who closes first is not to be the one who waits.
    while (recv(peer, &byte, 1, 0) > 0)
      ;
    close(peer);
  }
}

static void ask(struct sockaddr_in to, long milliseconds) {
  const struct linger reset = {.l_onoff = 1, .l_linger = 0};
  const struct timeval patience = {.tv_sec = 2};
  long count = 0;
  long long begin = now(), end = begin + milliseconds * 1000000ll, last = begin;
  while (last < end) {
    char byte;
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0 || setsockopt(connection, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) ||
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
        setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience))
      die("socket");
    if (connect(connection, (void *)&to, sizeof to))
      die("connect");
    if (recv(connection, &byte, 1, 0) != 1)
      die("receive");
    close(connection);
    count++;
    last = now();
  }
  printf("%.0f\n", count * 1e9 / (last - begin));
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "serve")) {
    serve(atoi(argv[2]));
  } else if (argc == 5 && !strcmp(argv[1], "ask")) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    if (!inet_pton(AF_INET, argv[2], &to.sin_addr)) {
      fprintf(stderr, "connections: no IPv4 address: %s\n", argv[2]);
      return 2;
    }
    ask(to, atol(argv[4]));
  } else {
    fprintf(stderr, "usage: connections serve PORT | ask ADDRESS PORT MILLISECONDS\n");
    return 2;
  }
}
