// Memory aligned to cache lines, which are also the widest vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace edgekiln {

inline constexpr std::size_t kAlignment = 64;

using AlignedBytes = std::unique_ptr<std::uint8_t, decltype(&std::free)>;

// Uninitialized memory; `size` is a multiple of kAlignment. Throws std::bad_alloc.
inline AlignedBytes aligned_bytes(std::size_t size) {
  AlignedBytes memory(static_cast<std::uint8_t*>(std::aligned_alloc(kAlignment, size)), &std::free);
  if (!memory) throw std::bad_alloc();
  return memory;
}

// The first aligned address at or after `memory`, less than kAlignment bytes further.
template <typename Value>
Value* aligned(Value* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return reinterpret_cast<Value*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace edgekiln
