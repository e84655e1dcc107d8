// Reads a file of the pack cache: checks it, and maps it into memory.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/common/huge_pages.h"
#include "kernels/common/reserved_range.h"
#include "kernels/pack/pack_cache_file.h"

namespace edgekiln {

class PackCacheReader {
 public:
  // Null where the file is missing, damaged, of another version, of other weights, or of a user who owns neither the
  // weights nor this process.
  //
  // Every open checks the header, the file's size and a sample of each weight. The first one after the system was
  // started, or after the file was copied from another, reads and checks all of it: a file that was being written when
  // the system stopped may have lost any page.
  static std::unique_ptr<PackCacheReader> open(const std::string& path, const std::string& key,
                                               const std::string& weights);

  // Null where the file does not have it.
  const PackCacheEntry* find(const PackedWeightId& id) const;

  // Whether the mapping of a weight is in huge pages, or will be when it is read. In small pages, a decode step takes
  // up to a third longer.
  bool has_huge_pages(const PackCacheEntry& entry) const;

  const std::uint8_t* data(const PackCacheEntry& entry) const { return range_.data() + entry.offset; }

 private:
  explicit PackCacheReader(std::size_t size) : range_(size) {}

  bool has_sound_samples() const;
  bool is_sound() const;

  ReservedRange range_;
  std::vector<PackCacheEntry> entries_;  // by id
  std::vector<MappedPage> pages_;        // behind the header, when the file was opened
};

}  // namespace edgekiln
