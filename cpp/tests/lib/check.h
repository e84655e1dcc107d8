// What the tests here check with.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                      \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      static_cast<void>(std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition)); \
      std::exit(1);                                                                           \
    }                                                                                         \
  } while (false)
