#include "kernels/common/mapped_file.h"

#include "kernels/common/pages.h"

#if defined(__linux__)
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <vector>
#endif

#include <cstring>

namespace edgekiln {

#if defined(__linux__)

namespace {

// Bits of /proc/self/pagemap; see the kernel's Documentation/admin-guide/mm/pagemap.rst.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63, kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kFileBacked = std::uint64_t{1} << 61;

bool all_file_backed(const Pages& pages) {
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return false;
  std::vector<std::uint64_t> entries(pages.count);
  const std::size_t bytes = pages.count * sizeof entries[0];
  const ssize_t got =
      pread(map, entries.data(), bytes, static_cast<off_t>(pages.first / pages.page * sizeof entries[0]));
  close(map);
  // Writing to a page of a private mapping makes it anonymous.
  return got == static_cast<ssize_t>(bytes) && std::all_of(entries.begin(), entries.end(), [](std::uint64_t entry) {
           return !(entry & (kPresent | kSwapped)) || entry & kFileBacked;
         });
}

struct Mapping {
  std::uintptr_t start, end;
  std::size_t offset;
  std::string path;  // empty where no file is mapped
};

// Calls `use` with each line of /proc/self/maps, "start-end permissions offset device inode path", until it returns
// false.
template <typename Use>
void for_each_mapping(Use&& use) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    Mapping mapping{};
    unsigned long inode = 0;
    int path = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %*s %zx %*s %lu %n", &mapping.start, &mapping.end,
                    &mapping.offset, &inode, &path) < 4)
      continue;
    if (inode && path) mapping.path = line.substr(static_cast<std::size_t>(path));
    if (!use(mapping)) return;
  }
}

// The file mapped at [data, data + size), with its offset there.
std::optional<Mapping> mapping_of(const void* data, std::size_t size) {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  std::optional<Mapping> found;
  for_each_mapping([&](const Mapping& mapping) {
    if (first < mapping.start || first + size > mapping.end) return true;
    if (!mapping.path.empty()) found = mapping;
    if (found) found->offset += first - mapping.start;
    return false;
  });
  return found;
}

bool read_all(int file, void* to, std::size_t size, std::size_t offset) {
  for (std::size_t got = 0; got < size;) {
    const ssize_t more = pread(file, static_cast<char*>(to) + got, size - got, static_cast<off_t>(offset + got));
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) return false;
    got += static_cast<std::size_t>(more);
  }
  return true;
}

}  // namespace

void drop_mapped_pages(const void* data, std::size_t size) {
  const Pages pages = Pages::within(data, size);
  if (pages.count && all_file_backed(pages)) pages.drop();
}

void read_ahead(const void* data, std::size_t size) {
  // A sample: to look at each page, as the advice itself does, takes a tenth of the time of multiplying with them.
  constexpr std::size_t kSample = 1 << 20;
  const Pages pages = Pages::within(data, size);
  const std::size_t bytes = pages.count * pages.page;
  for (std::size_t at = 0; at < bytes; at += kSample) {
    unsigned char resident = 0;
    if (!mincore(reinterpret_cast<void*>(pages.first + at), pages.page, &resident) && resident & 1) continue;
    madvise(reinterpret_cast<void*>(pages.first), bytes, MADV_WILLNEED);
    return;
  }
}

FileMappings::FileMappings(const std::string& path) {
  for_each_mapping([&](const Mapping& mapping) {
    if (mapping.path == path) ranges_.push_back({mapping.start, mapping.end, mapping.offset});
    return true;
  });
}

std::optional<std::size_t> FileMappings::offset_of(const void* data, std::size_t size) const {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  for (const Range& range : ranges_)
    if (first >= range.start && first + size <= range.end) return range.offset + (first - range.start);
  return std::nullopt;
}

MappedFileReader::MappedFileReader(const void* data, std::size_t size) : data_(static_cast<const char*>(data)) {
  const std::optional<Mapping> mapping = mapping_of(data, size);
  if (!mapping) return;
  offset_ = mapping->offset;
  file_ = open(mapping->path.c_str(), O_RDONLY | O_CLOEXEC);
  // The name may refer to another file by now: compare samples of the content.
  constexpr std::size_t kSamples = 16, kSampleSize = 64;
  const std::size_t sample = std::min(kSampleSize, size);
  for (std::size_t i = 0; i < kSamples && file_ >= 0; ++i) {
    char found[kSampleSize];
    const std::size_t at = (size - sample) / (kSamples - 1) * i;
    if (read_all(file_, found, sample, offset_ + at) && !std::memcmp(found, data_ + at, sample)) continue;
    close(file_);
    file_ = -1;
  }
  drop_mapped_pages(data, size);
}

MappedFileReader::~MappedFileReader() {
  if (file_ >= 0) close(file_);
}

void MappedFileReader::read(const void* at, std::size_t size, void* to) const {
  const auto from = static_cast<std::size_t>(static_cast<const char*>(at) - data_);
  if (file_ < 0 || !read_all(file_, to, size, offset_ + from)) std::memcpy(to, at, size);
}

#else

void drop_mapped_pages(const void*, std::size_t) {}

void read_ahead(const void*, std::size_t) {}

FileMappings::FileMappings(const std::string&) {}

std::optional<std::size_t> FileMappings::offset_of(const void*, std::size_t) const { return std::nullopt; }

MappedFileReader::MappedFileReader(const void* data, std::size_t) : data_(static_cast<const char*>(data)) {}

MappedFileReader::~MappedFileReader() = default;

void MappedFileReader::read(const void* at, std::size_t size, void* to) const { std::memcpy(to, at, size); }

#endif

}  // namespace edgekiln
