// Helpers of the kernel tests.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"

// A field of Linux's /proc/self/status in kB, such as RssAnon; -1 on other systems.
inline long kilobytes_of(const std::string& name) {
  long found = -1;
  char line[256];
  std::FILE* status = std::fopen("/proc/self/status", "r");
  while (status && std::fgets(line, sizeof line, status))
    if (std::sscanf(line, (name + ": %ld").c_str(), &found) == 1) break;
  if (status) std::fclose(status);
  return found;
}

// A copy in an allocation of the exact size, so that sanitizers detect accesses past it.
template <typename Value>
std::unique_ptr<Value[]> exactly(const std::vector<Value>& values) {
  auto memory = std::make_unique<Value[]>(values.size());
  std::copy(values.begin(), values.end(), memory.get());
  return memory;
}
