/* Swaps two names again and again, until it is killed: what one of two containers that share a directory does to the other.
 * Run in a container by ../redirect.rs, with the two names and the microseconds for which they are exchanged; for three times as
 * long they are not. Says how often at the 1st, the 100th and every 1,000th time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  long pause = atol(argv[3]) * 1000;
  for (long number = 1;; number++) {
    if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE)) {
      perror("swap");
      return 1;
    }
    struct timespec time = {0, number % 2 ? pause : 3 * pause};
    if (pause) nanosleep(&time, 0);
    if (number == 1 || number == 100 || number % 1000 == 0) {
      printf("%ld swaps\n", number);
      fflush(stdout);
    }
  }
}
