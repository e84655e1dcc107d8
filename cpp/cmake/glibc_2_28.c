/* What a newer libstdc++ uses of its glibc, for libraries that run with glibc 2.28. Linked by glibc_stubs.cmake. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>

/* Of glibc 2.32: false lets shared pointers count atomically, as before. */
char __libc_single_threaded = 0;

/* Of glibc 2.36, for std::random_device. */
uint32_t arc4random(void) {
  uint32_t number;
  if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) abort();
  return number;
}
