// The file of the pack cache: packed weights one after another behind a header. docs/engine-format.md describes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgekiln {

// Increase it when a packed layout, the identity of a weight or this file changes: files of other versions are ignored
// and replaced.
inline constexpr std::uint32_t kPackCacheVersion = 2;

// Names what a packed weight was made from, and how; see packed_weight_id.h.
struct PackedWeightId {
  std::uint64_t low = 0, high = 0;
  bool operator==(const PackedWeightId&) const = default;
};

struct PackCacheEntry {
  PackedWeightId id;
  std::uint64_t offset, size;  // bytes in the file
  std::uint64_t checksum;      // of all bytes
  std::uint64_t sample;        // of the pages that every start checks
  std::uint64_t variant;       // what the layout depends on besides the id
};

// Entries begin behind the header, in the file and in memory, at multiples of kPackCachePage.
inline constexpr std::size_t kPackCacheHeaderBytes = std::size_t{1} << 21, kPackCachePage = 4096;
inline constexpr std::size_t kMaxPackCacheEntries = 32768;

// A checksum that finds damage; it is no defence against an author of other content.
std::uint64_t checksum_of(const void* data, std::size_t size, std::uint64_t seed = 0);

// The checksum of the first and the last page of `data`.
std::uint64_t sample_of(const std::uint8_t* data, std::size_t size);

// Identifies the time since the system was started; empty where that is not known.
std::string boot_id();

// The header's bytes, less than kPackCacheHeaderBytes, for a file of `file_size` bytes made from weights whose SHA-256
// is `key`.
std::vector<std::uint8_t> pack_cache_header(const std::string& key, std::uint64_t file_size,
                                            const std::vector<PackCacheEntry>& entries);

// The entries of a header of kPackCacheHeaderBytes; empty if it is damaged, of another version or key, or describes
// a file of another size.
std::vector<PackCacheEntry> read_pack_cache_header(const std::uint8_t* header, const std::string& key,
                                                   std::uint64_t file_size);

// Where a header has the boot id of the system that wrote or last checked the whole file, which no checksum covers.
inline constexpr std::size_t kBootIdOffset = 256, kBootIdBytes = 64;

}  // namespace edgekiln
