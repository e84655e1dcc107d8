// The pack cache: packed weights in a file beside the engine, which later starts map into memory instead of packing.
//
// Processes that map the file share its pages. The first start writes it: each weight is packed into memory that
// becomes a mapping of the file as that is written, so there is never a second copy. The file gets its name when keep()
// is called, after the caller has checked the weights that it was made from; a process that ends before that leaves
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kernels/common/usable_memory.h"
#include "kernels/common/weight_arena.h"
#include "kernels/pack/pack_cache_file.h"

namespace edgekiln {

enum class PackCacheUse {
  kRead,
  kWrite,      // where the file is missing, damaged, or of another version, write it and make its directory
  kTemporary,  // the same without a name, in a directory that is there
};

struct PackCacheOptions {
  std::string path;     // of the cache's file
  std::string weights;  // path of the weights file
  std::string key;      // its SHA-256, in hexadecimal
  PackCacheUse use = PackCacheUse::kRead;
  std::uint64_t memory = usable_memory();
};

// A packed weight: `size` bytes of which nobody changes one, and what its layout depends on.
struct CachedWeight {
  ArenaBytes memory;
  std::size_t size;
  std::uint64_t variant;
};

// Where the memory of a cached weight is.
enum class CachePages {
  kHuge,    // in the file's mapping if that is in huge pages, else a copy in such pages
  kMapped,  // always in the mapping: the system drops pages of it where memory is short, and reads them again
};

class PackCacheReader;
class PackCacheWriter;

// Thread-safe. Packed weights keep their cache alive.
class PackCache : public std::enable_shared_from_this<PackCache> {
 public:
  // The cache at a path, one a process as long as it is in use. Never fails: a cache that cannot be read or written
  // holds nothing, and weights are packed into the weight arena.
  static std::shared_ptr<PackCache> open(const PackCacheOptions& options);

  // Gives the file of the cache at `path` its name, if it was written here. False where it was not, or that failed.
  static bool keep(const std::string& path);

  explicit PackCache(const PackCacheOptions& options);
  ~PackCache();

  const std::string& weights() const { return weights_; }

  std::optional<CachedWeight> find(const PackedWeightId& id, CachePages pages = CachePages::kHuge);

  // The weight `id`, all of which `pack` writes to `size` bytes if the cache does not hold it. Throws std::bad_alloc,
  // and what `pack` throws.
  ArenaBytes find_or_pack(const PackedWeightId& id, std::size_t size, std::uint64_t variant,
                          const std::function<void(std::uint8_t*)>& pack);

  // The same without the weight arena; null where the cache neither holds the weight nor writes one. Of a weight that
  // is written to a mapping, no more than its last 2 MiB stay outside of it.
  ArenaBytes find_or_write(const PackedWeightId& id, std::size_t size, std::uint64_t variant, CachePages pages,
                           const std::function<void(std::uint8_t*)>& pack);

  // For the experts of mixtures, of which a token reads a few: mapped if the weights take more than half of the memory.
  CachePages pages_of_experts() const { return pages_of_experts_; }

 private:
  // Into the file that is written; null where none is. The caller has locked mutex_.
  ArenaBytes write(const PackedWeightId& id, std::size_t size, std::uint64_t variant, CachePages pages,
                   const std::function<void(std::uint8_t*)>& pack);
  ArenaBytes alive(const std::uint8_t* memory);
  ArenaBytes with_cache(ArenaBytes memory);
  ArenaBytes copy_of(const PackCacheEntry& entry);

  const std::string weights_, key_;
  const CachePages pages_of_experts_;
  std::mutex mutex_;
  std::unique_ptr<PackCacheReader> reader_;  // null where there is no sound file
  std::unique_ptr<PackCacheWriter> writer_;  // null where none is written
  // By offset in the file, weights whose mapping would be in small pages.
  std::map<std::uint64_t, std::weak_ptr<std::uint8_t>> copies_;
};

}  // namespace edgekiln
