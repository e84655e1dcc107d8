// What the tests of kernels share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "parallel.h"

// An allocation of exactly these values, so that a sanitizer sees any access past them.
template <typename Value>
std::unique_ptr<Value[]> exactly(const std::vector<Value>& values) {
  auto memory = std::make_unique<Value[]>(values.size());
  std::copy(values.begin(), values.end(), memory.get());
  return memory;
}
