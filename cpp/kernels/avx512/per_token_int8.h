// The two ends of the per-token int8 GEMM (W8A8): quantizing activations, and the epilogue that scales the
// accumulators.
//
// VPDPBUSD and TDPBUSD multiply unsigned by signed bytes, so activation codes are stored with zero point 128. The
// epilogue adds each column's compensation, -128 * the sum of its weight codes, which makes the result that of signed
// codes. For AVX512-VNNI and AMX.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/pack/packed_int8.h"
#include "kernels/vector/vector.h"

namespace edgekiln::EDGEKILN_ISA {

static_assert(kLanes == PackedInt8::kPanelWidth);

struct Int8GemmArgs {
  const PackedInt8& weight;
  const float* a;  // [m, k]
  std::size_t m;
  float* out;           // [m, n]
  std::size_t stride;   // bytes between the codes of two tokens, zero past k
  std::uint8_t* codes;  // [m, stride], quantized activations
  float* scales;        // [m]
  std::size_t panels_per_task, tokens_per_task;
};

// Tokens [first, last) times panels [panel, panel + count), count <= kInt8GemmPanels: in VNNI registers
// (avx512/int8_gemm.cpp) or AMX tiles (amx/int8_gemm.cpp).
inline constexpr int kInt8GemmPanels = 4;
void int8_gemm(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t count);

// What int8_gemm() expects of its arguments: the multiple of tokens in a task, the stride of the codes of k values, and
// how many tokens' codes the memory must hold.
std::size_t int8_gemm_token_multiple();
std::size_t int8_gemm_stride(std::size_t k);
std::size_t int8_gemm_held_tokens(std::size_t m);

// Quantizes one token to 127 steps of its largest magnitude.
inline void quantize_token(const Int8GemmArgs& args, std::size_t token) {
  constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of an all-zero token finite
  constexpr std::size_t kFour = 4 * kLanes;
  const std::size_t k = args.weight.k, whole = k / kLanes * kLanes, fours = k / kFour * kFour;
  const float* a = args.a + token * k;
  std::uint8_t* codes = args.codes + token * args.stride;
  const auto rest = static_cast<__mmask16>((1u << (k - whole)) - 1);
  // Four maxima, so that no vector waits for the one before.
  __m512 most[4] = {_mm512_abs_ps(_mm512_maskz_loadu_ps(rest, a + whole))};
  const auto update = [&](int i, const float* from) {
    most[i] = _mm512_max_ps(most[i], _mm512_abs_ps(_mm512_loadu_ps(from)));
  };
  for (std::size_t i = 0; i < fours; i += kFour)
    for (int j = 0; j < 4; ++j) update(j, a + i + j * kLanes);
  for (std::size_t i = fours; i < whole; i += kLanes) update(0, a + i);
  const __m512 both = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
  const float largest = std::max(_mm512_reduce_max_ps(both), kSmallestMaximum);
  const __m512 inverse = _mm512_set1_ps(127.0f / largest);
  const __m512i zero_point = _mm512_set1_epi32(PackedInt8::kActivationZeroPoint);
  const auto quantize = [&](__m512 x) {
    return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), zero_point);
  };
  const auto quantized = [&](std::size_t i) { return quantize(_mm512_loadu_ps(a + i)); };
  // The packs below interleave four vectors by 128-bit lanes; this permutation restores their order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (std::size_t i = 0; i < fours; i += kFour) {
    const __m512i low = _mm512_packs_epi32(quantized(i), quantized(i + kLanes));
    const __m512i high = _mm512_packs_epi32(quantized(i + 2 * kLanes), quantized(i + 3 * kLanes));
    _mm512_storeu_si512(codes + i, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
  }
  for (std::size_t i = fours; i < whole; i += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(quantized(i)));
  if (rest)
    _mm_mask_storeu_epi8(codes + whole, rest, _mm512_cvtepi32_epi8(quantize(_mm512_maskz_loadu_ps(rest, a + whole))));
  std::memset(codes + k, 0, args.stride - k);
  args.scales[token] = largest / 127.0f;
}

// Turns the int32 accumulators of one token and one panel into floats: adds the compensation, scales, stores.
class Epilogue {
 public:
  Epilogue(const Int8GemmArgs& args, std::size_t panel)
      : args_(args),
        column_(panel * kLanes),
        compensation_(_mm512_loadu_si512(args.weight.compensation.data() + column_)),
        scale_(_mm512_loadu_ps(args.weight.scales.data() + column_)) {}

  void operator()(std::size_t token, __m512i sum) const {
    const std::size_t n = args_.weight.n, left = n - column_;
    const __m512 scale = _mm512_mul_ps(scale_, _mm512_set1_ps(args_.scales[token]));
    const __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, compensation_)), scale);
    float* out = args_.out + token * n + column_;
    if (left >= kLanes) {
      _mm512_storeu_ps(out, result);
    } else {
      _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << left) - 1), result);
    }
  }

 private:
  const Int8GemmArgs& args_;
  std::size_t column_;
  __m512i compensation_;
  __m512 scale_;
};

}  // namespace edgekiln::EDGEKILN_ISA
