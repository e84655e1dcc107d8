#include "file_pages.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>
#endif

namespace edgekiln {

#if defined(__linux__)

namespace {

// Bits of /proc/self/pagemap; see the kernel's Documentation/admin-guide/mm/pagemap.rst.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63, kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;

bool all_of_a_file(std::uintptr_t first_page, std::size_t count, std::size_t page) {
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return false;
  std::vector<std::uint64_t> entries(count);
  const std::size_t bytes = count * sizeof entries[0];
  const ssize_t got = pread(map, entries.data(), bytes, static_cast<off_t>(first_page / page * sizeof entries[0]));
  close(map);
  // A page written to in a private mapping is no longer the file's.
  return got == static_cast<ssize_t>(bytes) && std::all_of(entries.begin(), entries.end(), [](std::uint64_t entry) {
           return !(entry & (kPresent | kSwapped)) || entry & kOfFile;
         });
}

}  // namespace

void release_file_pages(const void* data, std::size_t size) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
  if (first >= last || !all_of_a_file(first, (last - first) / page, page)) return;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

#else

void release_file_pages(const void*, std::size_t) {}

#endif

}  // namespace edgekiln
