/* Makes the filter of a profile by libseccomp, for ../filters.rs to compare with. From standard input, a line each:
 *   default ACTION | arch NAME | rule ACTION NAME [ARG OP VALUE MASK]...
 * (numbers in hexadecimal, actions as SECCOMP_RET_*). To standard output the program, to standard error the names that
 * this libseccomp does not know. */
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *operators[] = {"", "ne", "lt", "le", "eq", "ge", "gt", "masked"};

static void check(int result, const char *what) {
  if (result < 0) {
    printf("%s: %s\n", what, strerror(-result));
    exit(1);
  }
}

int main(void) {
  scmp_filter_ctx context = NULL;
  char *line = NULL;
  size_t size = 0;
  while (getline(&line, &size, stdin) > 0) {
    char *verb = strtok(line, " \n");
    if (!strcmp(verb, "default")) {
      context = seccomp_init(strtoul(strtok(NULL, " \n"), NULL, 16));
      /* Without it some names mean nothing on some architectures. */
      check(seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 1), "optimize");
    } else if (!strcmp(verb, "arch")) {
      check(seccomp_arch_add(context, seccomp_arch_resolve_name(strtok(NULL, " \n"))), "arch");
    } else {
      unsigned action = strtoul(strtok(NULL, " \n"), NULL, 16);
      char *name = strtok(NULL, " \n"), *word;
      struct scmp_arg_cmp args[6];
      unsigned count = 0;
      while ((word = strtok(NULL, " \n"))) {
        struct scmp_arg_cmp *arg = &args[count++];
        arg->arg = atoi(word);
        word = strtok(NULL, " \n");
        for (int op = 1; op < 8; op++)
          if (!strcmp(word, operators[op])) arg->op = op;
        arg->datum_a = strtoull(strtok(NULL, " \n"), NULL, 16);
        arg->datum_b = strtoull(strtok(NULL, " \n"), NULL, 16);
        if (arg->op == SCMP_CMP_MASKED_EQ) {
          scmp_datum_t value = arg->datum_a;
          arg->datum_a = arg->datum_b;
          arg->datum_b = value;
        }
      }
      int number = seccomp_syscall_resolve_name(name);
      if (number == __NR_SCMP_ERROR)
        fprintf(stderr, "%s\n", name);
      else
        check(seccomp_rule_add_array(context, action, number, count, args), name);
    }
  }
  check(seccomp_export_bpf(context, 1), "export");
}
