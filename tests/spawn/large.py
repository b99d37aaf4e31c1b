"""Programs with text enough for huge pages, for the tests of tuned copies. In: a path. Out: a program there."""

import subprocess
from pathlib import Path

M = 1 << 20

SOURCE = """
#include <stdio.h>
#include <string.h>
#include <unistd.h>
asm(".section .text.big,\\"ax\\",@progbits\\n.balign 4096\\n.globl big, big_end\\n"
    "big: .fill %d, 1, 0x90\\nbig_end: ret\\n.text");
extern const volatile char big[], big_end[];
const char *secret = "%s";
static int huge(void) {
  static char line[4096];
  unsigned long sum = 0, kb, total = 0;
  for (const volatile char *at = big; at < big_end; at += 4096) sum += *at;
  FILE *smaps = fopen("/proc/self/smaps", "r");
  while (fgets(line, sizeof line, smaps))
    if (sscanf(line, "FilePmdMapped: %%lu", &kb) == 1) total += kb;
  printf("%%lu\\n", total >> 11);
  return sum == 0;
}
int main(int argc, char **argv, char **env) {
  char name[16] = "";
  if (argc > 1 && !strcmp(argv[1], "huge")) return huge();
  if (argc > 1 && !strcmp(argv[1], "wait")) { getchar(); return 3; }
  FILE *comm = fopen("/proc/self/comm", "r");
  fgets(name, sizeof name, comm);
  printf("%%s", name);
  for (int i = 0; i < argc; i++) printf("[%%s]", argv[i]);
  for (; *env; env++) if (!strncmp(*env, "TUNED", 5)) printf("{%%s}", *env);
  for (int c; (c = getchar()) != EOF; ) putchar(c);
  return argc;
}
"""


def large(path: Path, *options: str, text: int = 8 * M, secret: str = "none") -> Path:
    """A program whose text no huge page can map as it is; `secret` is a text in its read-only data."""
    words = ["gcc", "-x", "c", "-", "-x", "none", "-o", str(path), "-Wl,-z,noseparate-code", *options]
    subprocess.run(words, input=SOURCE % (text, secret), text=True, check=True, capture_output=True, timeout=60)
    path.chmod(0o755)
    return path
