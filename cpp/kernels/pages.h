// Pages of memory: what the system gives and takes back.
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

  // Those that lie wholly in [data, data + size).
  static Pages within(const void* data, std::size_t size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const auto start = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t first = rounded_up(start, page), last = (start + size) / page * page;
    return {first, first < last ? (last - first) / page : 0, page};
  }

  // What they held is lost, but for pages of a file.
  void give_back() const {
    if (count) madvise(reinterpret_cast<void*>(first), count * page, MADV_DONTNEED);
  }
};

#endif

// Nobody will read these bytes again: pages that lie wholly among them go back, where the system can take them.
inline void give_back([[maybe_unused]] const void* data, [[maybe_unused]] std::size_t size) {
#if defined(__linux__)
  Pages::within(data, size).give_back();
#endif
}

}  // namespace edgekiln
