// binary16, in which memory holds twice as many numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>

namespace edgekiln {

struct Half {
  std::uint16_t bits;
};

// `value` as binary16 if that holds it exactly.
inline std::optional<Half> exactly_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent > 15) return std::nullopt;
  if (exponent >= -14) {
    if (magnitude & 0x1fff) return std::nullopt;
    return Half{static_cast<std::uint16_t>(sign | ((magnitude - (112u << 23)) >> 13))};
  }
  const float steps = std::fabs(value) * 16777216.0f;  // of the subnormals, 2^-24
  if (steps != std::floor(steps)) return std::nullopt;
  return Half{static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(steps))};
}

// The binary16 nearest to `value`, unless that is too large or has fewer bits than a normal one: then `value`.
inline float rounded_to_half(float value) {
  // Veltkamp's splitting: leaves the upper 11 of 24 bits.
  const float shifted = value * 8193.0f;
  return shifted - (shifted - value);
}

}  // namespace edgekiln
