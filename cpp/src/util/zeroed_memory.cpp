#include "util/zeroed_memory.h"

#include <cstdlib>
#include <memory>

#include "kernels/common/pages.h"

namespace edgekiln {

namespace {

// calloc would write zeros to reused heap memory, and so allocate its pages.
void* allocate(std::size_t size) {
#if defined(__linux__)
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
#else
  return std::calloc(size, 1);
#endif
}

}  // namespace

ZeroedMemory::ZeroedMemory(std::size_t size, [[maybe_unused]] bool huge)
    : allocated_(allocate(size + kHugePage)), size_(size + kHugePage) {
  if (!allocated_) return;
  void* start = allocated_;
  std::size_t space = size_;
  start_ = static_cast<std::byte*>(std::align(kHugePage, size, start, space));
#if defined(__linux__)
  if (huge) madvise(start_, size, MADV_HUGEPAGE);
#endif
}

ZeroedMemory::~ZeroedMemory() {
  if (!allocated_) return;
#if defined(__linux__)
  munmap(allocated_, size_);
#else
  std::free(allocated_);
#endif
}

}  // namespace edgekiln
