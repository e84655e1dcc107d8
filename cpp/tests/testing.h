// What the tests of kernels share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "parallel.h"

// No threads: tasks that must not need each other, one after another.
inline constexpr edgekiln::Parallel kSerial{
    [](void*, void (*task)(void*, std::size_t), std::size_t count, void* context) {
      for (std::size_t i = 0; i < count; ++i) task(context, i);
    },
    nullptr};

// An allocation of exactly these values, so that a sanitizer sees any access past them.
template <typename Value>
std::unique_ptr<Value[]> exactly(const std::vector<Value>& values) {
  auto memory = std::make_unique<Value[]>(values.size());
  std::copy(values.begin(), values.end(), memory.get());
  return memory;
}
