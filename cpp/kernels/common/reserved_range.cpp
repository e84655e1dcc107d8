#include "kernels/common/reserved_range.h"

#include "kernels/common/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace edgekiln {

#if defined(__linux__)

ReservedRange::ReservedRange(std::size_t size)
    : mapped_size_(rounded_up(size, kHugePage) + kHugePage), size_(rounded_up(size, kHugePage)) {
  mapped_ = mmap(nullptr, mapped_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped_ == MAP_FAILED) {
    mapped_ = nullptr;
    return;
  }
  data_ = reinterpret_cast<std::uint8_t*>(rounded_up(reinterpret_cast<std::uintptr_t>(mapped_), kHugePage));
  madvise(data_, size_, MADV_HUGEPAGE);
}

ReservedRange::~ReservedRange() {
  if (mapped_) munmap(mapped_, mapped_size_);
}

bool ReservedRange::commit(std::size_t offset, std::size_t size) {
  return mprotect(data_ + offset, size, PROT_READ | PROT_WRITE) == 0;
}

bool ReservedRange::map_file(int file, std::size_t offset, std::size_t size) {
  std::uint8_t* const at = data_ + offset;
  if (mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, file, static_cast<off_t>(offset)) == MAP_FAILED) return false;
  // Read-ahead and the page cache then use huge pages on file systems with large folios.
  madvise(at, size, MADV_HUGEPAGE);
  return true;
}

#else

ReservedRange::ReservedRange(std::size_t) {}
ReservedRange::~ReservedRange() = default;
bool ReservedRange::commit(std::size_t, std::size_t) { return false; }
bool ReservedRange::map_file(int, std::size_t, std::size_t) { return false; }

#endif

}  // namespace edgekiln
