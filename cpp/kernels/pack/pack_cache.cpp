#include "kernels/pack/pack_cache.h"

#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "kernels/common/pages.h"
#include "kernels/pack/pack_cache_reader.h"
#include "kernels/pack/pack_cache_writer.h"

namespace edgekiln {

namespace {

std::mutex open_mutex;

// Those in use, by path. Never destroyed: threads may still use it while the process exits.
std::map<std::string, std::weak_ptr<PackCache>>& open_caches() {
  static auto& caches = *new std::map<std::string, std::weak_ptr<PackCache>>;
  return caches;
}

CachePages expert_pages(const PackCacheOptions& options) {
  std::error_code error;
  const std::uintmax_t weights = std::filesystem::file_size(options.weights, error);
  return !error && weights > options.memory / 2 ? CachePages::kMapped : CachePages::kHuge;
}

}  // namespace

std::shared_ptr<PackCache> PackCache::open(const PackCacheOptions& options) {
  const std::lock_guard lock(open_mutex);
  std::weak_ptr<PackCache>& known = open_caches()[options.path];
  std::shared_ptr<PackCache> cache = known.lock();
  const bool has_file = cache && (cache->reader_ || cache->writer_);
  if (!cache || cache->key_ != options.key || (options.use != PackCacheUse::kRead && !has_file))
    known = cache = std::make_shared<PackCache>(options);
  return cache;
}

bool PackCache::keep(const std::string& path) {
  const std::shared_ptr<PackCache> cache = [&] {
    const std::lock_guard lock(open_mutex);
    const auto known = open_caches().find(path);
    return known == open_caches().end() ? nullptr : known->second.lock();
  }();
  if (!cache) return false;
  const std::lock_guard lock(cache->mutex_);
  return cache->writer_ && cache->writer_->keep();
}

PackCache::PackCache(const PackCacheOptions& options)
    : weights_(options.weights), key_(options.key), pages_of_experts_(expert_pages(options)) {
  reader_ = PackCacheReader::open(options.path, options.key, options.weights);
  if (!reader_ && options.use != PackCacheUse::kRead)
    writer_ =
        PackCacheWriter::open(options.path, options.key, options.weights, options.use == PackCacheUse::kTemporary);
}

PackCache::~PackCache() = default;

ArenaBytes PackCache::alive(const std::uint8_t* memory) {
  return {shared_from_this(), const_cast<std::uint8_t*>(memory)};
}

// Several sessions of an engine share it.
ArenaBytes PackCache::copy_of(const PackCacheEntry& entry) {
  std::weak_ptr<std::uint8_t>& known = copies_[entry.offset];
  if (ArenaBytes copy = known.lock()) return copy;
  ArenaBytes copy = with_cache(arena_allocate(entry.size));
  std::memcpy(copy.get(), reader_->data(entry), entry.size);
  drop_pages(reader_->data(entry), entry.size);
  known = copy;
  return copy;
}

// Keeps the cache, whose file every weight of a session would otherwise open and check again.
ArenaBytes PackCache::with_cache(ArenaBytes memory) {
  std::uint8_t* const begin = memory.get();
  return {std::make_shared<std::pair<ArenaBytes, std::shared_ptr<PackCache>>>(std::move(memory), shared_from_this()),
          begin};
}

std::optional<CachedWeight> PackCache::find(const PackedWeightId& id, CachePages pages) {
  const std::lock_guard lock(mutex_);
  const auto found = [&](const auto& file) -> std::optional<CachedWeight> {
    const PackCacheEntry* const entry = file ? file->find(id) : nullptr;
    if (!entry) return std::nullopt;
    return CachedWeight{alive(file->data(*entry)), entry->size, entry->variant};
  };
  const PackCacheEntry* const entry = reader_ ? reader_->find(id) : nullptr;
  if (entry && pages == CachePages::kHuge && !reader_->has_huge_pages(*entry))
    return CachedWeight{copy_of(*entry), entry->size, entry->variant};
  if (auto weight = found(reader_)) return weight;
  return found(writer_);
}

ArenaBytes PackCache::write(const PackedWeightId& id, std::size_t size, std::uint64_t variant, CachePages pages,
                            const std::function<void(std::uint8_t*)>& pack) {
  // Another session of the same engine may have packed it meanwhile.
  const PackCacheEntry* const entry = writer_ ? writer_->find(id) : nullptr;
  if (entry && entry->size == size && entry->variant == variant) return alive(writer_->data(*entry));
  std::uint8_t* const memory = writer_ && !entry ? writer_->allocate(size) : nullptr;
  if (!memory) return nullptr;
  pack(memory);
  writer_->add(id, size, variant, pages == CachePages::kMapped);
  return alive(memory);
}

ArenaBytes PackCache::find_or_pack(const PackedWeightId& id, std::size_t size, std::uint64_t variant,
                                   const std::function<void(std::uint8_t*)>& pack) {
  if (auto weight = find(id); weight && weight->size == size && weight->variant == variant) return weight->memory;
  {
    const std::lock_guard lock(mutex_);
    if (ArenaBytes memory = write(id, size, variant, CachePages::kHuge, pack)) return memory;
  }
  ArenaBytes memory = arena_allocate(size);
  pack(memory.get());
  return with_cache(std::move(memory));
}

ArenaBytes PackCache::find_or_write(const PackedWeightId& id, std::size_t size, std::uint64_t variant, CachePages pages,
                                    const std::function<void(std::uint8_t*)>& pack) {
  const std::optional<CachedWeight> weight = find(id, pages);
  if (weight && weight->size == size && weight->variant == variant) return weight->memory;
  const std::lock_guard lock(mutex_);
  return write(id, size, variant, pages, pack);
}

}  // namespace edgekiln
