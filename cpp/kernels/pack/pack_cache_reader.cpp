#include "kernels/pack/pack_cache_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/common/file_descriptor.h"
#include "kernels/common/pages.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace edgekiln {

namespace {

constexpr std::ptrdiff_t kMostSmall = 8;  // one in so many pages of a mapped weight may be small

constexpr auto kById = [](const PackCacheEntry& one, const PackCacheEntry& other) {
  return std::pair(one.id.low, one.id.high) < std::pair(other.id.low, other.id.high);
};

#if defined(__linux__)

// Whether another user may have written the file to harm this one.
bool is_trusted(const struct stat& file, const std::string& weights) {
  struct stat of_weights;
  return file.st_uid == geteuid() || file.st_uid == 0 ||
         (!stat(weights.c_str(), &of_weights) && file.st_uid == of_weights.st_uid);
}

// Records that this system, since it was started, has checked the whole file.
void write_boot_id(const std::string& path, const std::string& boot) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  char bytes[kBootIdBytes] = {};
  boot.copy(bytes, sizeof bytes - 1);
  if (file) file.write_all(bytes, sizeof bytes, kBootIdOffset);
}

#endif

}  // namespace

const PackCacheEntry* PackCacheReader::find(const PackedWeightId& id) const {
  PackCacheEntry wanted{};
  wanted.id = id;
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), wanted, kById);
  return found != entries_.end() && found->id == id ? &*found : nullptr;
}

bool PackCacheReader::is_sound() const {
  return std::all_of(entries_.begin(), entries_.end(), [&](const PackCacheEntry& entry) {
    return checksum_of(data(entry), entry.size) == entry.checksum;
  });
}

bool PackCacheReader::has_sound_samples() const {
  return std::all_of(entries_.begin(), entries_.end(),
                     [&](const PackCacheEntry& entry) { return sample_of(data(entry), entry.size) == entry.sample; });
}

bool PackCacheReader::has_huge_pages(const PackCacheEntry& entry) const {
  const std::size_t from = entry.offset - kPackCacheHeaderBytes;
  const auto begin = pages_.begin() + static_cast<std::ptrdiff_t>(from / kHugePage);
  const auto end = pages_.begin() + static_cast<std::ptrdiff_t>(rounded_up(from + entry.size, kHugePage) / kHugePage);
  return std::count(begin, end, MappedPage::kSmall) * kMostSmall <= end - begin &&
         std::count(pages_.begin(), pages_.end(), MappedPage::kHuge) > 0;
}

#if defined(__linux__)

std::unique_ptr<PackCacheReader> PackCacheReader::open(const std::string& path, const std::string& key,
                                                       const std::string& weights) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status;
  if (!file || fstat(file.number(), &status) || !S_ISREG(status.st_mode) || !is_trusted(status, weights))
    return nullptr;
  const auto size = static_cast<std::size_t>(status.st_size);
  std::vector<std::uint8_t> header(kPackCacheHeaderBytes);
  if (size <= header.size() || !file.read_all(header.data(), header.size(), 0)) return nullptr;
  std::vector<PackCacheEntry> entries = read_pack_cache_header(header.data(), key, size);
  if (entries.empty()) return nullptr;
  std::unique_ptr<PackCacheReader> reader(new PackCacheReader(size));
  if (!reader->range_.data() || !reader->range_.map_file(file.number(), 0, size)) return nullptr;
  std::sort(entries.begin(), entries.end(), kById);
  reader->entries_ = std::move(entries);
  const std::string boot = boot_id();
  const auto* written = reinterpret_cast<const char*>(header.data() + kBootIdOffset);
  if (!boot.empty() && boot == std::string(written, strnlen(written, kBootIdBytes))) {
    if (!reader->has_sound_samples()) return nullptr;
  } else {
    if (!reader->is_sound()) return nullptr;
    write_boot_id(path, boot);
  }
  reader->pages_ = mapped_pages(reader->range_.data() + kPackCacheHeaderBytes, size - kPackCacheHeaderBytes);
  return reader;
}

#else

std::unique_ptr<PackCacheReader> PackCacheReader::open(const std::string&, const std::string&, const std::string&) {
  return nullptr;
}

#endif

}  // namespace edgekiln
