// GEMM of small row-major float matrices that are in the cache, for prefill attention. For NEON.
//
// As vector/gemm.h, but a multiplication takes its element of A by lane, so that four of a row are one load.
#pragma once

#include <arm_neon.h>

#include <cstddef>

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kNeonTileRows = 4;

namespace detail {

template <int Lane, int Rows, int Vectors>
[[gnu::always_inline]] inline void add_row(float32x4_t (&sums)[Rows][Vectors], const float32x4_t (&a)[Rows],
                                           const float* b) {
  float32x4_t row[Vectors];
#pragma GCC unroll 4
  for (int j = 0; j < Vectors; ++j) row[j] = vld1q_f32(b + 4 * j);
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sums[i][j] = vfmaq_laneq_f32(sums[i][j], row[j], a[i], Lane);
}

// c[Rows, 4 * Vectors] = a[Rows, depth] * b[depth, 4 * Vectors], added to c if `accumulate`.
template <int Rows, int Vectors>
void gemm_tile(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride, std::size_t depth, float* c,
               std::size_t c_stride, bool accumulate) {
  float32x4_t sums[Rows][Vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sums[i][j] = vdupq_n_f32(0.0f);
  std::size_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    float32x4_t four[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) four[i] = vld1q_f32(a + i * a_stride + k);
    add_row<0>(sums, four, b);
    b += b_stride;
    add_row<1>(sums, four, b);
    b += b_stride;
    add_row<2>(sums, four, b);
    b += b_stride;
    add_row<3>(sums, four, b);
    b += b_stride;
  }
  for (; k < depth; ++k, b += b_stride) {
    float32x4_t one[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) one[i] = vdupq_n_f32(a[i * a_stride + k]);
    add_row<0>(sums, one, b);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      float* to = c + i * c_stride + 4 * j;
      vst1q_f32(to, accumulate ? vaddq_f32(vld1q_f32(to), sums[i][j]) : sums[i][j]);
    }
}

template <int Vectors, int Rows = static_cast<int>(kNeonTileRows)>
void gemm_rows(std::size_t rows, const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
               std::size_t depth, float* c, std::size_t c_stride, bool accumulate) {
  if (rows >= Rows) {
    gemm_tile<Rows, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  } else if constexpr (Rows > 1) {
    gemm_rows<Vectors, Rows - 1>(rows, a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  }
}

}  // namespace detail

// c[m, n] = a[m, k] * b[k, n], added to c if `accumulate`; n a multiple of 4, strides in elements.
inline void neon_gemm(std::size_t m, std::size_t n, std::size_t k, const float* a, std::size_t a_stride, const float* b,
                      std::size_t b_stride, float* c, std::size_t c_stride, bool accumulate) {
  for (std::size_t i = 0; i < m; i += kNeonTileRows) {
    std::size_t j = 0;
    for (; j + 16 <= n; j += 16)
      detail::gemm_rows<4>(m - i, a + i * a_stride, a_stride, b + j, b_stride, k, c + i * c_stride + j, c_stride,
                           accumulate);
    for (; j + 8 <= n; j += 8)
      detail::gemm_rows<2>(m - i, a + i * a_stride, a_stride, b + j, b_stride, k, c + i * c_stride + j, c_stride,
                           accumulate);
    for (; j < n; j += 4)
      detail::gemm_rows<1>(m - i, a + i * a_stride, a_stride, b + j, b_stride, k, c + i * c_stride + j, c_stride,
                           accumulate);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
