// What the tests of kernels share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kernels/parallel.h"

// Kilobytes of this process's memory by their name in Linux's /proc/self/status; -1 where the system does not tell.
inline long kilobytes_of(const std::string& name) {
  long found = -1;
  char line[256];
  std::FILE* status = std::fopen("/proc/self/status", "r");
  while (status && std::fgets(line, sizeof line, status))
    if (std::sscanf(line, (name + ": %ld").c_str(), &found) == 1) break;
  if (status) std::fclose(status);
  return found;
}

// An allocation of exactly these values, so that a sanitizer sees any access past them.
template <typename Value>
std::unique_ptr<Value[]> exactly(const std::vector<Value>& values) {
  auto memory = std::make_unique<Value[]>(values.size());
  std::copy(values.begin(), values.end(), memory.get());
  return memory;
}
