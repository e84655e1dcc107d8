// An int8 weight packed for the per-token int8 GEMM (W8A8), in panels of 16 columns over all of k (what BLIS calls a
// micro-panel of B, NR = 16), in one of two orders.
//
//   panel p, columns 16p .. 16p + 15, kFours; one row = 64 bytes = one VPDPBUSD operand:
//
//               column 16p     column 16p + 1        column 16p + 15
//             +--------------+--------------+-----+--------------+
//   k 0..3    | k0 k1 k2 k3  | k0 k1 k2 k3  | ... | k0 k1 k2 k3  |   one int8 code each
//   k 4..7    | k4 k5 k6 k7  | k4 k5 k6 k7  | ... | k4 k5 k6 k7  |
//     ...
//             +--------------+--------------+-----+--------------+
//
//   kEights; one row = 128 bytes = eight SMMLA operands of two columns:
//
//               column 16p               column 16p + 1                 column 16p + 15
//             +------------------------+------------------------+-----+------------------------+
//   k 0..7    | k0 k1 k2 ... k7        | k0 k1 k2 ... k7        | ... | k0 k1 k2 ... k7        |
//     ...
//             +------------------------+------------------------+-----+------------------------+
//
// Codes past k and columns past n are zero. Panels follow each other without gaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/common/weight_arena.h"

namespace edgekiln {

struct PackPlace;  // pack_place.h

enum class Int8Order : std::uint8_t { kFours, kEights };  // of values of k

struct PackedInt8 {
  static constexpr std::size_t kPanelWidth = 16;  // columns
  static constexpr std::size_t kDotK = 4;         // values of k that one VPDPBUSD lane multiplies: a row of kFours
  static constexpr std::size_t kSmmlaK = 8;       // and SMMLA: a row of kEights
  static constexpr int kActivationZeroPoint = 128;
  // AMX reads k in steps of so many values, so up to kPadding bytes past the last panel.
  static constexpr std::size_t kReadK = 64, kPadding = kReadK * kPanelWidth;

  // Packs `codes` [k, n] with `scales` [n], which are not read where the cache of `place` has the packed weight. Throws
  // std::bad_alloc.
  PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order);
  PackedInt8(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order,
             const PackPlace& place);
  // The weight that write() has packed to `memory`.
  PackedInt8(std::size_t k, std::size_t n, Int8Order order, ArenaBytes memory);

  static std::size_t bytes(std::size_t k, std::size_t n, Int8Order order);
  // Packs the weight of the first constructor to bytes(k, n, order) of memory.
  static void write(const std::int8_t* codes, const float* scales, std::size_t k, std::size_t n, Int8Order order,
                    std::uint8_t* to);

  // Columns [first, first + count), in the same memory; `first` is a multiple of kPanelWidth.
  PackedInt8 columns(std::size_t first, std::size_t count) const {
    PackedInt8 part = *this;
    part.n = count;
    part.memory = {memory, memory.get() + first / kPanelWidth * panel_bytes()};
    part.compensation = compensation.subspan(first);
    part.scales = scales.subspan(first);
    return part;
  }

  std::size_t k, n;
  Int8Order order;
  ArenaBytes memory;                           // the panels, then compensation and scales
  std::span<const std::int32_t> compensation;  // [panels, kPanelWidth], -kActivationZeroPoint * sum of a column's codes
  std::span<const float> scales;               // [panels, kPanelWidth]

  std::size_t steps() const { return (k + kDotK - 1) / kDotK; }
  std::size_t panels() const { return (n + kPanelWidth - 1) / kPanelWidth; }
  std::size_t row_k() const { return order == Int8Order::kFours ? kDotK : kSmmlaK; }
  std::size_t panel_bytes() const { return ((k + row_k() - 1) & ~(row_k() - 1)) * kPanelWidth; }
  const std::uint8_t* panel(std::size_t index) const { return memory.get() + index * panel_bytes(); }
};

}  // namespace edgekiln
