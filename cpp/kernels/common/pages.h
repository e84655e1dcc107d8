// Pages of virtual memory: rounding to pages, and returning them to the operating system.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace edgekiln {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

inline constexpr std::uintptr_t rounded_up(std::uintptr_t value, std::size_t to) { return (value + to - 1) / to * to; }

#if defined(__linux__)

struct Pages {
  std::uintptr_t first = 0;
  std::size_t count = 0, page = 1;

  // The pages that lie wholly in [data, data + size).
  static Pages within(const void* data, std::size_t size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const auto start = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t first = rounded_up(start, page), last = (start + size) / page * page;
    return {first, first < last ? (last - first) / page : 0, page};
  }

  // Returns them to the operating system. Anonymous pages then read as zero, pages of a file as the file.
  void drop() const {
    if (count) madvise(reinterpret_cast<void*>(first), count * page, MADV_DONTNEED);
  }
};

#endif

// Returns the pages that lie wholly in [data, data + size) to the operating system; their content is lost. Does nothing
// on systems other than Linux.
inline void drop_pages([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#if defined(__linux__)
  Pages::within(data, size).drop();
#endif
}

}  // namespace edgekiln
