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
  const auto of_file = [](std::uint64_t entry) { return (entry & kOfFile) != 0; };
  const auto of_none = [](std::uint64_t entry) { return !(entry & (kPresent | kSwapped)); };
  return got == static_cast<ssize_t>(bytes) && std::any_of(entries.begin(), entries.end(), of_file) &&
         std::all_of(entries.begin(), entries.end(),
                     [&](std::uint64_t entry) { return of_file(entry) || of_none(entry); });
}

}  // namespace

FilePages::FilePages(const void* data, std::size_t size) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
  if (first >= last) return;
  // A read brings one of them in, so that there is something to go by.
  static_cast<void>(*reinterpret_cast<const volatile char*>(first));
  if (!all_of_a_file(first, (last - first) / page, page)) return;
  first_ = reinterpret_cast<char*>(first);
  size_ = last - first;
}

void FilePages::release() const {
  if (first_) madvise(first_, size_, MADV_DONTNEED);
}

#else

FilePages::FilePages(const void*, std::size_t) {}

void FilePages::release() const {}

#endif

}  // namespace edgekiln
