// A weight's scales and offsets in binary16, where that holds them exactly: as those of GGUF, which it stores so.
#pragma once

#include <vector>

#include "kernels/matmul_nbits.h"

namespace edgekiln {

class HalfScales {
 public:
  HalfScales() = default;

  // Of `count` groups; `offsets` may be null. Empty where a single one does not fit.
  HalfScales(const float* scales, const float* offsets, std::size_t count, int middle) {
    std::vector<Half> found(count + kHalfPadding), minima(offsets ? count + kHalfPadding : 0);
    for (std::size_t i = 0; i < count; ++i) {
      const auto half = exactly_half(scales[i]);
      if (!half) return;
      found[i] = *half;
      if (!offsets) continue;
      const float from_zero = static_cast<float>(middle) * scales[i];
      const float minimum = rounded_to_half(offsets[i] - from_zero);
      const auto half_minimum = exactly_half(minimum);
      if (!half_minimum || minimum + from_zero != offsets[i]) return;
      minima[i] = *half_minimum;
    }
    scales_ = std::move(found);
    minima_ = std::move(minima);
  }

  const Half* scales() const { return scales_.empty() ? nullptr : scales_.data(); }
  const Half* minima() const { return minima_.empty() ? nullptr : minima_.data(); }

 private:
  std::vector<Half> scales_, minima_;
};

}  // namespace edgekiln
