// Where a packed weight is: in the pack cache if there is one, else in the weight arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "kernels/common/weight_arena.h"
#include "kernels/pack/pack_cache.h"

namespace edgekiln {

struct PackPlace {
  std::shared_ptr<PackCache> cache = nullptr;  // null for none
  PackedWeightId id = {};

  std::optional<CachedWeight> find() const { return cache ? cache->find(id) : std::nullopt; }

  // The weight's memory; `pack` writes all of its `size` bytes where no cache has them. Throws std::bad_alloc, and what
  // `pack` throws.
  ArenaBytes find_or_pack(std::size_t size, std::uint64_t variant,
                          const std::function<void(std::uint8_t*)>& pack) const {
    if (cache) return cache->find_or_pack(id, size, variant, pack);
    ArenaBytes memory = arena_allocate(size);
    pack(memory.get());
    return memory;
  }
};

}  // namespace edgekiln
