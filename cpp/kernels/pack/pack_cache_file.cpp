#include "kernels/pack/pack_cache_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>

namespace edgekiln {

namespace {

struct Header {
  char magic[8];
  std::uint32_t version, entries;
  std::uint64_t file_size;
  std::uint64_t checksum;  // of the header, with 0 here, and of the entries behind it
  char key[64];
};

constexpr char kMagic[9] = "EKPACKED";
constexpr std::size_t kEntriesOffset = 4096;
static_assert(sizeof(Header) <= kBootIdOffset && kBootIdOffset + kBootIdBytes <= kEntriesOffset);
static_assert(kEntriesOffset + kMaxPackCacheEntries * sizeof(PackCacheEntry) <= kPackCacheHeaderBytes);

std::uint64_t header_checksum(Header header, const std::uint8_t* entries) {
  header.checksum = 0;
  return checksum_of(entries, header.entries * sizeof(PackCacheEntry), checksum_of(&header, sizeof header));
}

bool is_inside(const PackCacheEntry& entry, std::uint64_t file_size) {
  return entry.offset >= kPackCacheHeaderBytes && entry.offset % kPackCachePage == 0 && entry.offset <= file_size &&
         entry.size > 0 && entry.size <= file_size - entry.offset;
}

}  // namespace

// Independent lanes hide the latency of a multiplication, so that memory limits the speed.
std::uint64_t checksum_of(const void* data, std::size_t size, std::uint64_t seed) {
  constexpr std::size_t kLanes = 8;
  constexpr std::uint64_t kPrime = 0x9E3779B185EBCA87;  // odd, with well distributed bits
  std::array<std::uint64_t, kLanes> lanes, words;
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = seed + (i + 1) * kPrime;
  const auto add = [&] {
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = std::rotl(lanes[i] ^ words[i], 29) * kPrime;
  };
  const auto* at = static_cast<const std::uint8_t*>(data);
  for (std::size_t left = size; left; at += std::min(left, sizeof words), left -= std::min(left, sizeof words)) {
    if (left < sizeof words) words = {};
    std::memcpy(words.data(), at, std::min(left, sizeof words));
    add();
  }
  std::uint64_t sum = size;
  for (const std::uint64_t lane : lanes) {
    sum = (sum ^ lane) * kPrime;
    sum ^= sum >> 32;
  }
  return sum;
}

std::uint64_t sample_of(const std::uint8_t* data, std::size_t size) {
  const std::size_t bytes = std::min(kPackCachePage, size);
  return checksum_of(data + size - bytes, bytes, checksum_of(data, bytes));
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  id.resize(std::min(id.size(), kBootIdBytes - 1));
  return id;
}

std::vector<std::uint8_t> pack_cache_header(const std::string& key, std::uint64_t file_size,
                                            const std::vector<PackCacheEntry>& entries) {
  std::vector<std::uint8_t> bytes(kEntriesOffset + entries.size() * sizeof(PackCacheEntry));
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof header.magic);
  header.version = kPackCacheVersion;
  header.entries = static_cast<std::uint32_t>(entries.size());
  header.file_size = file_size;
  key.copy(header.key, sizeof header.key);
  if (!entries.empty()) std::memcpy(bytes.data() + kEntriesOffset, entries.data(), entries.size() * sizeof entries[0]);
  header.checksum = header_checksum(header, bytes.data() + kEntriesOffset);
  std::memcpy(bytes.data(), &header, sizeof header);
  const std::string boot = boot_id();
  std::memcpy(bytes.data() + kBootIdOffset, boot.data(), boot.size());
  return bytes;
}

std::vector<PackCacheEntry> read_pack_cache_header(const std::uint8_t* bytes, const std::string& key,
                                                   std::uint64_t file_size) {
  Header header, expected{};
  std::memcpy(&header, bytes, sizeof header);
  key.copy(expected.key, sizeof expected.key);
  if (std::memcmp(header.magic, kMagic, sizeof header.magic) || header.version != kPackCacheVersion ||
      header.entries > kMaxPackCacheEntries || header.file_size != file_size ||
      std::memcmp(header.key, expected.key, sizeof header.key) ||
      header.checksum != header_checksum(header, bytes + kEntriesOffset))
    return {};
  std::vector<PackCacheEntry> entries(header.entries);
  if (entries.empty()) return {};
  std::memcpy(entries.data(), bytes + kEntriesOffset, entries.size() * sizeof entries[0]);
  const bool sound = std::all_of(entries.begin(), entries.end(),
                                 [&](const PackCacheEntry& entry) { return is_inside(entry, file_size); });
  return sound ? entries : std::vector<PackCacheEntry>{};
}

}  // namespace edgekiln
