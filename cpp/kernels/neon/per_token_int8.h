// Arguments of the per-token int8 GEMM (W8A8), and quantizing its activations. For NEON.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/neon/quantize.h"
#include "kernels/pack/packed_int8.h"
#include "kernels/packed/packed_gemm.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kStepK = 32;  // values of k in a step of the GEMMs

struct Int8GemmArgs {
  const PackedInt8& weight;
  const float* a;        // [m, k]
  std::size_t m, steps;  // steps of kStepK values of k
  float* out;            // [m, n]
  std::int8_t* codes;    // of the activations, zero past k, in the order of the GEMM
  float* scales;         // [m], rounded up to whole tiles
  std::size_t panels_per_task;
};

// With room in `scratch` for the codes and scales of m tokens, rounded up to a multiple of tile_m. Tokens past the last
// are multiplied, too, and dropped: their scales are 0.
inline Int8GemmArgs int8_gemm_args(const PackedInt8& weight, const float* a, std::size_t m, std::size_t tile_m,
                                   float* out, Scratch& scratch) {
  const std::size_t steps = ceil_div(weight.k, kStepK), code_floats = steps * kStepK / sizeof(float);
  const std::size_t held = ceil_div(m, tile_m) * tile_m;
  float *memory = at_least(scratch, held * (code_floats + 1)), *scales = memory + held * code_floats;
  std::fill(scales + m, scales + held, 0.0f);
  return {
      .weight = weight,
      .a = a,
      .m = m,
      .steps = steps,
      .out = out,
      .codes = reinterpret_cast<std::int8_t*>(memory),
      .scales = scales,
      .panels_per_task = panels_per_task(weight.panels(), weight.panel_bytes()),
  };
}

namespace detail {

// Calls store(codes of 16 values) for a[count], a multiple of kStepK.
template <typename Store>
[[gnu::always_inline]] inline void quantize_steps(const float* a, std::size_t count, float inverse,
                                                  const Store& store) {
  const float* const end = a + count;
  if (count % 64 != 0) {
    store(quantize_16(a, inverse));
    store(quantize_16(a + 16, inverse));
    a += kStepK;
  }
#pragma GCC unroll 1
  for (; a != end; a += 64)
#pragma GCC unroll 4
    for (int i = 0; i < 64; i += 16) store(quantize_16(a + i, inverse));
}

}  // namespace detail

// Calls store(codes of 16 values) for a token, in order, up to a multiple of kStepK; returns its scale, 1 / 127 of the
// largest magnitude.
template <typename Store>
[[gnu::always_inline]] inline float quantize_token(const float* a, std::size_t k, const Store& store) {
  constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of an all-zero token finite
  const std::size_t whole = k / kStepK * kStepK;
  float largest = std::max(largest_magnitude(a, whole), kSmallestMaximum);
  float rest[kStepK];
  if (whole < k) {
    std::fill(rest, rest + kStepK, 0.0f);
    std::copy(a + whole, a + k, rest);
    largest = std::max(largest, largest_magnitude(rest, kStepK));
  }
  const float inverse = 127.0f / largest;
  detail::quantize_steps(a, whole, inverse, store);
  if (whole < k) detail::quantize_steps(rest, kStepK, inverse, store);
  return largest / 127.0f;
}

}  // namespace edgekiln::EDGEKILN_ISA
