// Times commands against each other, in one interleaved run, and tells their peak memory.
//
//   measure COMMANDS
//
// Each line of COMMANDS is: ROUNDS tab LABEL tab PROGRAM tab ARGUMENT tab ... The command with the most rounds sets the pace;
// the others join in evenly. Before that each runs three times unmeasured, once with its error output shown. A command that
// ends with anything but 0 is counted. Standard output, one line a command:
//
//   LABEL tab RUNS tab MEDIAN tab MINIMUM tab PEAK tab FAILURES        (microseconds, KiB)
//
// PEAK is ru_maxrss of wait4: the largest of the command and the children it waited for. The kernel counts there what the
// process held before its execve too, which is this program: hence C, static, and a first line "-" with its own size.
//
//   cc -O2 -static -o measure measure.c
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { COMMANDS = 64, WORDS = 64, ROUNDS = 10000 };

struct command {
  int rounds, runs, failures;
  long peak;
  char *label, *words[WORDS];
  unsigned *times;
};

static struct command commands[COMMANDS];
static int count, null;

static unsigned now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000u + t.tv_nsec / 1000;
}

// Runs the command once and gives its microseconds; its memory goes to its record, an end that is not 0 to *failed.
static unsigned run(struct command *c, int *failed, int show_errors) {
  unsigned start = now();
  pid_t child = vfork();
  if (child == 0) {
    dup2(null, 0);
    dup2(null, 1);
    if (!show_errors)
      dup2(null, 2);
    execvp(c->words[0], c->words);
    _exit(127);
  }
  struct rusage usage;
  int status = 1;
  if (child < 0 || wait4(child, &status, 0, &usage) < 0) {
    perror("measure");
    exit(1);
  }
  unsigned time = now() - start;
  if (usage.ru_maxrss > c->peak)
    c->peak = usage.ru_maxrss;
  *failed += status != 0;
  return time;
}

static void read_commands(FILE *file) {
  char *line = 0;
  size_t size = 0;
  while (count < COMMANDS && getline(&line, &size, file) > 0) {
    struct command *c = &commands[count++];
    char *rest = strdup(line);
    rest[strcspn(rest, "\n")] = 0;
    c->rounds = atoi(strsep(&rest, "\t"));
    c->label = strsep(&rest, "\t");
    for (int i = 0; rest && i < WORDS - 1; i++)
      c->words[i] = strsep(&rest, "\t");
    if (c->rounds < 1 || c->rounds > ROUNDS || !c->label || !c->words[0]) {
      fprintf(stderr, "measure: a line is not ROUNDS, LABEL, PROGRAM: %s", line);
      exit(2);
    }
    c->times = calloc(c->rounds, sizeof *c->times);
  }
}

static int by_size(const void *a, const void *b) {
  unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
  return (x > y) - (x < y);
}

// Not from getrusage: that counts what this process held before its own execve, a shell's memory.
static long own_peak(void) {
  char line[256];
  long peak = 0;
  FILE *status = fopen("/proc/self/status", "re");
  while (status && fgets(line, sizeof line, status))
    sscanf(line, "VmHWM: %ld", &peak);
  if (status)
    fclose(status);
  return peak;
}

int main(int argc, char **argv) {
  FILE *file = argc == 2 ? fopen(argv[1], "re") : 0;
  null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (!file || null < 0) {
    fprintf(stderr, "usage: measure COMMANDS\n");
    return 2;
  }
  read_commands(file);

  long own = own_peak();
  int most = 0;
  for (int i = 0; i < count; i++) {
    struct command *c = &commands[i];
    int failed = 0;
    for (int warm = 0; warm < 3; warm++)
      run(c, &failed, warm == 0);
    if (failed) {
      fprintf(stderr, "measure: %s does not end with 0, and is left out\n", c->label);
      c->failures = failed;
      c->rounds = 0;
    }
    if (c->rounds > most)
      most = c->rounds;
  }
  for (int round = 0; round < most; round++) {
    if (round % 10 == 0)
      fprintf(stderr, "\rround %d of %d ", round, most);
    for (int i = 0; i < count; i++) {
      struct command *c = &commands[i];
      if ((long)(round + 1) * c->rounds / most > (long)round * c->rounds / most)
        c->times[c->runs++] = run(c, &c->failures, 0);
    }
  }
  fprintf(stderr, "\r                      \r");

  printf("-\t0\t0\t0\t%ld\t0\n", own);
  for (int i = 0; i < count; i++) {
    struct command *c = &commands[i];
    qsort(c->times, c->runs, sizeof *c->times, by_size);
    unsigned median = c->runs ? c->times[c->runs / 2] : 0, least = c->runs ? c->times[0] : 0;
    printf("%s\t%d\t%u\t%u\t%ld\t%d\n", c->label, c->runs, median, least, c->peak, c->failures);
  }
  return 0;
}
