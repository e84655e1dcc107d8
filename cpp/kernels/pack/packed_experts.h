// The weights of a mixture's experts, packed one by one when they are first used, or all of them in the pack cache.
//
// In the pack cache, a large mixture stays in the mapping of its file, so that the page cache decides which experts are
// in memory: one larger than memory runs at the speed of the disk. Without a cache, those that are used stay in the
// weight arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "kernels/pack/pack_place.h"
#include "kernels/pack/packed_int8.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln {

// Where the cache of a mixture has its experts; null where they are packed at first use.
class ExpertMemory {
 public:
  using Pack = std::function<void(std::size_t expert, std::uint8_t* to)>;

  // Of `count` experts of `size` bytes, which `pack` writes as long as this object lives. `packed` is what a cache has;
  // with `on_disk`, parts of that may not be in memory.
  ExpertMemory(std::size_t count, std::size_t size, ArenaBytes packed, bool on_disk, Pack pack);

  // Starts to read an expert that is on disk. Thread-safe. Throws what `pack` throws.
  ArenaBytes expert(std::size_t index) const;

  // Between two experts in a cache.
  static std::size_t stride(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr std::size_t kAlignment = 64;

  struct Slot {
    std::once_flag once;
    ArenaBytes memory;
  };

  std::size_t size_;
  ArenaBytes packed_;
  bool on_disk_;
  Pack pack_;
  std::unique_ptr<Slot[]> slots_;  // null with packed_
};

// Experts with weights of 4 or 8 bits.
class NBitsExperts {
 public:
  // `weight` has the columns of `count` experts one after another, in memory that stays as long as this object.
  NBitsExperts(const MatMulNBitsArgs& weight, std::size_t count, const PackPlace& place);

  PackedNBits expert(std::size_t index) const;

 private:
  PackedNBits shape_;
  ExpertMemory memory_;
};

// Experts with int8 weights, codes [count, k, n] and scales [count, n].
class Int8Experts {
 public:
  Int8Experts(const std::int8_t* codes, const float* scales, std::size_t count, std::size_t k, std::size_t n,
              Int8Order order, const PackPlace& place);

  PackedInt8 expert(std::size_t index) const { return {k_, n_, order_, memory_.expert(index)}; }

 private:
  std::size_t k_, n_;
  Int8Order order_;
  ExpertMemory memory_;
};

}  // namespace edgekiln
