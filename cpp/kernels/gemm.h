// Small matrix products out of cache, the inner loop of attention.
#pragma once

#include "kernels/bf16.h"

namespace edgekiln::EDGEKILN_ISA {

// Registers: rows * columns sums, one row of b, one broadcast of a.
#if defined(__AVX512F__)
inline constexpr int kTileRows = 6, kTileVectors = 4;
#elif defined(__AVX2__)
inline constexpr int kTileRows = 6, kTileVectors = 2;
#else
inline constexpr int kTileRows = 4, kTileVectors = 2;
#endif

namespace detail {

template <int Rows, int Vectors, typename A, typename B>
inline void tile(const A* a, std::size_t a_stride, const B* b, std::size_t b_stride, std::size_t depth, float* c,
                 std::size_t c_stride, bool accumulate) {
  // Unrolled by order: otherwise the sums are spilled between the loops.
  Floats sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) sum[i][j] = Floats{};
  for (std::size_t k = 0; k < depth; ++k) {
    decltype(load(b)) row[Vectors];
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + k * b_stride + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const auto x = broadcast(a[i * a_stride + k]);
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sum[i][j] = added(sum[i][j], x, row[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) {
      float* to = c + i * c_stride + j * kLanes;
      store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
    }
}

template <int Vectors, int Rows = kTileRows, typename A, typename B>
inline void rows_of_tile(std::size_t rows, const A* a, std::size_t a_stride, const B* b, std::size_t b_stride,
                         std::size_t depth, float* c, std::size_t c_stride, bool accumulate) {
  if (rows >= Rows) {
    tile<Rows, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  } else if constexpr (Rows > 1) {
    rows_of_tile<Vectors, Rows - 1>(rows, a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  }
}

template <int Vectors, typename A, typename B>
inline void columns_of_tile(std::size_t rows, const A* a, std::size_t a_stride, const B* b, std::size_t b_stride,
                            std::size_t depth, float* c, std::size_t c_stride, bool accumulate) {
  for (std::size_t i = 0; i < rows; i += kTileRows) {
    rows_of_tile<Vectors>(rows - i, a + i * a_stride, a_stride, b, b_stride, depth, c + i * c_stride, c_stride,
                          accumulate);
  }
}

}  // namespace detail

// c[rows, columns] = a[rows, depth] * b[depth, columns], added to c when `accumulate`; columns a multiple of kLanes.
// a and b are of floats, b also of int8; or both are of pairs, which `depth` then counts.
template <typename A, typename B>
inline void gemm(std::size_t rows, std::size_t columns, std::size_t depth, const A* a, std::size_t a_stride, const B* b,
                 std::size_t b_stride, float* c, std::size_t c_stride, bool accumulate) {
  std::size_t j = 0;
  for (; j + kTileVectors * kLanes <= columns; j += kTileVectors * kLanes)
    detail::columns_of_tile<kTileVectors>(rows, a, a_stride, b + j, b_stride, depth, c + j, c_stride, accumulate);
  for (; j < columns; j += kLanes)
    detail::columns_of_tile<1>(rows, a, a_stride, b + j, b_stride, depth, c + j, c_stride, accumulate);
}

}  // namespace edgekiln::EDGEKILN_ISA
