// GEMM of small row-major matrices that are in the cache: the inner loop of prefill attention and dequantized weights.
//
// C stays in registers, Rows x Vectors accumulators a tile; each step of k loads one row of B and broadcasts one
// element of each row of A. For every instruction set.
#pragma once

#include "kernels/vector/vector.h"
#if defined(__AVX512BF16__)
#include "kernels/avx512/bf16.h"
#endif

namespace edgekiln::EDGEKILN_ISA {

// Of a tile: rows * vectors accumulators, one row of B and one broadcast of A fill the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
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
  // Unrolled by pragma: GCC otherwise spills the accumulators between the loops.
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

// Up to Rows rows.
template <int Vectors, int Rows = kTileRows, typename A, typename B>
inline void tile_of(std::size_t rows, const A* a, std::size_t a_stride, const B* b, std::size_t b_stride,
                    std::size_t depth, float* c, std::size_t c_stride, bool accumulate) {
  if (rows >= Rows) {
    tile<Rows, Vectors>(a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  } else if constexpr (Rows > 1) {
    tile_of<Vectors, Rows - 1>(rows, a, a_stride, b, b_stride, depth, c, c_stride, accumulate);
  }
}

// All rows of a strip of Vectors vectors of columns.
template <int Vectors, typename A, typename B>
inline void strip(std::size_t rows, const A* a, std::size_t a_stride, const B* b, std::size_t b_stride,
                  std::size_t depth, float* c, std::size_t c_stride, bool accumulate) {
  for (std::size_t i = 0; i < rows; i += kTileRows)
    tile_of<Vectors>(rows - i, a + i * a_stride, a_stride, b, b_stride, depth, c + i * c_stride, c_stride, accumulate);
}

}  // namespace detail

// c[m, n] = a[m, k] * b[k, n], added to c if `accumulate`; n a multiple of kLanes, strides in elements.
//
// a and b are float, b may be int8; or both are Bf16Pair, and k counts pairs.
template <typename A, typename B>
inline void gemm(std::size_t m, std::size_t n, std::size_t k, const A* a, std::size_t a_stride, const B* b,
                 std::size_t b_stride, float* c, std::size_t c_stride, bool accumulate) {
  std::size_t j = 0;
  for (; j + kTileVectors * kLanes <= n; j += kTileVectors * kLanes)
    detail::strip<kTileVectors>(m, a, a_stride, b + j, b_stride, k, c + j, c_stride, accumulate);
  for (; j < n; j += kLanes) detail::strip<1>(m, a, a_stride, b + j, b_stride, k, c + j, c_stride, accumulate);
}

}  // namespace edgekiln::EDGEKILN_ISA
