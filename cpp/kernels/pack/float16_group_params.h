// The scales and group biases of a weight as float16, if that holds them exactly: weights from GGUF, which stores
// float16. A GEMV then reads half the bytes for them.
#pragma once

#include <utility>
#include <vector>

#include "kernels/matmul_nbits.h"

namespace edgekiln {

class Float16GroupParams {
 public:
  Float16GroupParams() = default;

  // Of `count` groups; `group_bias` may be null. Stays empty if float16 does not hold every value exactly.
  Float16GroupParams(const float* scales, const float* group_bias, std::size_t count, int midpoint) {
    std::vector<Float16> float16_scales(count + kFloat16Padding), mins(group_bias ? count + kFloat16Padding : 0);
    for (std::size_t i = 0; i < count; ++i) {
      const auto scale = exact_float16(scales[i]);
      if (!scale) return;
      float16_scales[i] = *scale;
      if (!group_bias) continue;
      const float from_zero = static_cast<float>(midpoint) * scales[i];
      const float min = round_to_float16(group_bias[i] - from_zero);
      const auto float16_min = exact_float16(min);
      if (!float16_min || min + from_zero != group_bias[i]) return;
      mins[i] = *float16_min;
    }
    scales_ = std::move(float16_scales);
    mins_ = std::move(mins);
  }

  const Float16* scales() const { return scales_.empty() ? nullptr : scales_.data(); }
  const Float16* mins() const { return mins_.empty() ? nullptr : mins_.data(); }

 private:
  std::vector<Float16> scales_, mins_;
};

}  // namespace edgekiln
