// The weights and activations of the n-bit matrix multiplications as their kernels round them, in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/pack/packed_nbits.h"

struct NBitsCase {
  std::string name;
  std::size_t m, k, n, group;
  int bits;
  bool zero_points, group_bias = false, float16 = false;
  bool extreme = false;   // codes and activations are the largest and smallest there are
  bool six_bits = false;  // codes within 32 of the midpoint, which are packed as 6 bits
  bool factored = false;  // scales are float16 factors of 16 groups times int8
  const std::int8_t* codebook = nullptr;

  // What a code is multiplied by its scale as, without zero points and biases that are added.
  double value_of(std::uint8_t code) const { return codebook ? codebook[code] : code; }
};

// Twice the values of FP4 (E2M1), and llama.cpp's kvalues_iq4nl.
inline constexpr std::int8_t kFp4[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr std::int8_t kIq4Nl[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Both ends of int8.
inline constexpr std::int8_t kExtremes[] = {-128, 127, -127, 126, 0, 64, -64, 1, -1, 100, -100, 5, -5, 33, -33, 77};

using Doubles = std::vector<double>;

// The codes of rows [width] as ONNX Runtime packs them, each row padded to whole bytes.
inline std::vector<std::uint8_t> packed(const std::vector<std::uint8_t>& codes, std::size_t width, int bits) {
  if (bits == 8) return codes;
  std::vector<std::uint8_t> bytes(codes.size() / width * ((width + 1) / 2));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::size_t row = i / width, at = i % width;
    bytes[row * ((width + 1) / 2) + at / 2] |= codes[i] << at % 2 * 4;
  }
  return bytes;
}

// Rows [k] quantized to int8 in blocks, the last of which may be shorter, and dequantized.
inline std::vector<float> quantized(std::vector<float> values, std::size_t k, std::size_t block) {
  for (std::size_t start = 0; start < values.size();) {
    const std::size_t end = std::min(start + block, (start / k + 1) * k);
    float largest = 0.0f;
    for (std::size_t i = start; i < end; ++i) largest = std::max(largest, std::fabs(values[i]));
    for (std::size_t i = start; i < end && largest != 0.0f; ++i)
      values[i] = std::nearbyint(values[i] * (127.0f / largest)) * (largest / 127.0f);
    start = end;
  }
  return values;
}

// Rounded to the 8 significant bits of bfloat16.
template <typename Values, typename Round>
Values round_to_bf16(Values values, const Round& round) {
  for (auto& value : values) {
    int exponent;
    const auto fraction = std::frexp(value, &exponent);
    value = std::ldexp(round(fraction * 256), exponent - 8);
  }
  return values;
}

// Weights [n, k] requantized to int8 as the q4 prefill GEMM does it: 127 steps of the largest magnitude in kRequantizeK
// of k, from integer arithmetic in 256ths of a step.
inline void requantize(const NBitsCase& c, std::vector<double>& weights, const std::vector<float>& scales,
                       const std::vector<float>& zeros, const std::vector<std::uint8_t>& codes) {
  const std::size_t groups = c.k / c.group, groups_a_step = edgekiln::kRequantizeK / c.group;
  for (std::size_t column = 0; column < c.n; ++column) {
    for (std::size_t first = 0; first < groups; first += groups_a_step) {
      const std::size_t begin = column * groups + first,
                        end = column * groups + std::min(first + groups_a_step, groups);
      float most = 0.0f;
      const auto largest = static_cast<float>(
          c.codebook ? std::abs(*std::max_element(c.codebook, c.codebook + 16,
                                                  [](int a, int b) { return std::abs(a) < std::abs(b); }))
                     : 15);
      for (std::size_t i = begin; i < end; ++i)
        most = std::max({most, std::fabs(zeros[i]), std::fabs(zeros[i] + largest * scales[i])});
      const float step = most / 127.0f;
      for (std::size_t i = begin; i < end; ++i) {
        const double factor = std::nearbyint(scales[i] * (256.0f / step)),
                     zero = std::nearbyint(zeros[i] * (256.0f / step));
        for (std::size_t at = i * c.group; at < (i + 1) * c.group; ++at)
          weights[at] = step * std::floor((c.value_of(codes[at]) * factor + zero + 128.0) / 256.0);
      }
    }
  }
}
