// The parameters after the codes of a packed block (pack/packed_nbits.h), for kLanes of its columns.
#pragma once

#include <type_traits>

#include "kernels/pack/packed_nbits.h"
#include "kernels/vector/float16_load.h"

namespace edgekiln::EDGEKILN_ISA {

// A weight is scale * (code - midpoint) + bias; with zero points scale * code + bias, where bias = -scale * zero point.
// `min` is the weight of code 0, unused if the codes have an offset.
template <bool HasFloat16>
struct GroupParams {
  Floats scale, bias{}, min;

  // Of columns [first, first + kLanes) of the panel.
  GroupParams(const PackedNBits& weight, const std::uint8_t* block, std::size_t first = 0) {
    using Param = std::conditional_t<HasFloat16, Float16, float>;
    const auto* params = reinterpret_cast<const Param*>(block + weight.codes_bytes());
    const auto midpoint = static_cast<float>(1 << (weight.bits - 1));
    scale = load(params + first);
    if (weight.scheme == WeightScheme::kZeroPoints) {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(params + kPanelWidth);
      bias = scale * subtracted(broadcast(weight.code_offset), load(bytes + first), broadcast(weight.zero_point_scale));
      min = bias;
    } else if (weight.scheme == WeightScheme::kGroupBias) {
      const Floats stored = load(params + kPanelWidth + first);
      bias = HasFloat16 ? added(stored, scale, broadcast(midpoint)) : stored;
      min = HasFloat16 ? stored : subtracted(stored, scale, broadcast(midpoint));
    } else {
      bias = scale * weight.code_offset;
      min = -scale * midpoint;
    }
  }
};

// How a packed weight stores its scales.
enum class Scales { kFloat, kFloat16, kFactored };

// The scales of a weight with factored ones, of columns [first, first + kLanes) of a panel: exact products.
inline Floats factored_scales(const PackedNBits& weight, const std::uint8_t* panel, const std::uint8_t* block,
                              std::size_t group, std::size_t first) {
  const auto* factors = reinterpret_cast<const Float16*>(panel) + group / kFactorGroups * kPanelWidth;
  const auto* multiples = reinterpret_cast<const std::int8_t*>(block + weight.codes_bytes());
  return load(factors + first) * load(multiples + first);
}

}  // namespace edgekiln::EDGEKILN_ISA
