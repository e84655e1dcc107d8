// IEEE 754 float16 as storage, and exact conversion to it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>

namespace edgekiln {

struct Float16 {
  std::uint16_t bits;
};

// `value` as float16 if that holds it exactly.
inline std::optional<Float16> exact_float16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent > 15) return std::nullopt;
  if (exponent >= -14) {
    if (magnitude & 0x1fff) return std::nullopt;
    return Float16{static_cast<std::uint16_t>(sign | ((magnitude - (112u << 23)) >> 13))};
  }
  const float steps = std::fabs(value) * 16777216.0f;  // of the subnormals, 2^-24
  if (steps != std::floor(steps)) return std::nullopt;
  return Float16{static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(steps))};
}

// `value` rounded to the 11 significant bits of a float16: its nearest float16, unless that is subnormal or infinite.
inline float round_to_float16(float value) {
  // In integers, as a compiler may contract float operations to FMA. Adds half a unit of the last bit that stays, less
  // one where that bit is 0, so that ties go to even.
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0xfff + (bits >> 13 & 1)) & ~std::uint32_t{0x1fff};
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace edgekiln
