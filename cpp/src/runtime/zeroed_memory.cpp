#include "runtime/zeroed_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace edgekiln {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// The heap would write zeros to what it had given out before.
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

void ZeroedMemory::forget([[maybe_unused]] const std::byte* from, [[maybe_unused]] std::size_t size) {
#if defined(__linux__)
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<std::uintptr_t>(from);
  const std::uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#endif
}

}  // namespace edgekiln
