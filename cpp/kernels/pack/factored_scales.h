// The scales of a weight as a float16 factor for each 16 groups times an int8 for each group, if that is exact: weights
// from GGUF's Q6_K, which stores them so. A GEMV then reads a quarter of the bytes for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/common/float16.h"

namespace edgekiln {

inline constexpr std::size_t kFactorGroups = 16;

class FactoredScales {
 public:
  FactoredScales() = default;

  // Of scales [columns, groups]. Stays empty if a scale is no such product.
  FactoredScales(const float* scales, std::size_t columns, std::size_t groups);

  bool empty() const { return factors_.empty(); }
  // Of one column.
  const Float16* factors(std::size_t column) const { return factors_.data() + column * factors_per_column_; }
  const std::int8_t* multiples(std::size_t column) const { return multiples_.data() + column * groups_; }

 private:
  std::size_t groups_ = 0, factors_per_column_ = 0;
  std::vector<Float16> factors_;        // [columns, factors_per_column_]
  std::vector<std::int8_t> multiples_;  // [columns, groups]
};

}  // namespace edgekiln
