// Many rows times 4-bit weights, as products of codes: each block of 32 activations is rounded to int8, and a panel
// of the weight's codes is laid out so that one instruction multiplies four of them for each of 16 columns.
#pragma once

#include <algorithm>
#include <bit>

#include "block_dot.h"
#include "gemm.h"
#include "matmul_n_bits.h"

namespace edgekiln::EDGEKILN_ISA {

#if defined(__AVX512VNNI__)

namespace code_panels {

constexpr std::size_t kColumns = 64, kVectors = kColumns / kLanes;
constexpr std::size_t kBlocks = 8;  // of depth; a panel fits the first-level cache
constexpr std::size_t kQuads = kBlock / 4;
constexpr int kRows = 6, kWide = 2;  // of a tile: as many sums, in int32 and in float, as registers hold
constexpr std::size_t kRowsATask = 16;

// Activations in blocks of scale * code, and their sums over each group of weights before and after rounding.
struct Rows {
  const MatMulNBitsCall& call;
  std::int8_t* codes;
  float* scales;
  float* sums;
  float* exact_sums;
  std::size_t blocks, groups;
};

inline void quantize_row(const Rows& rows, std::size_t row) {
  const MatMulNBitsCall& call = rows.call;
  const float* a = call.a + row * call.depth;
  float* sums = rows.sums + row * rows.groups;
  float* exact_sums = rows.exact_sums + row * rows.groups;
  std::fill_n(sums, rows.groups, 0.0f);
  if (call.offsets) std::fill_n(exact_sums, rows.groups, 0.0f);
  for (std::size_t block = 0; block < rows.blocks; ++block) {
    const __m512 x = _mm512_loadu_ps(a + block * kBlock), y = _mm512_loadu_ps(a + block * kBlock + kLanes);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
    const float scale = largest / 127.0f;
    const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : 127.0f / largest);
    const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
    auto* codes = reinterpret_cast<__m128i*>(rows.codes + row * call.depth + block * kBlock);
    _mm_storeu_si128(codes, _mm512_cvtepi32_epi8(p));
    _mm_storeu_si128(codes + 1, _mm512_cvtepi32_epi8(q));
    rows.scales[row * rows.blocks + block] = scale;
    const std::size_t group = block * kBlock / call.group;
    sums[group] += scale * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(p, q)));
    if (call.offsets) exact_sums[group] += _mm512_reduce_add_ps(_mm512_add_ps(x, y));
  }
}

inline void quantize_task(void* context, std::size_t index) {
  const Rows& rows = *static_cast<const Rows*>(context);
  const std::size_t last = std::min((index + 1) * kRowsATask, rows.call.rows);
  for (std::size_t row = index * kRowsATask; row < last; ++row) quantize_row(rows, row);
}

// Weights of one panel of columns: codes[blocks, kQuads, kColumns] of four bytes, scales[blocks, kColumns].
struct Panel {
  alignas(64) std::uint32_t codes[kBlocks * kQuads * kColumns];
  alignas(64) float scales[kBlocks * kColumns];
};

inline void pack(const MatMulNBitsCall& call, std::size_t column, std::size_t columns, std::size_t first,
                 std::size_t blocks, Panel& to) {
  const unsigned group_shift = std::countr_zero(call.group / kBlock);
  const __m128i nibble = _mm_set1_epi8(15);
  for (std::size_t i = 0; i < columns; ++i) {
    const std::uint8_t* line = call.codes + (column + i) * call.row_bytes() + first * kBlock / 2;
    const float* scales = call.scales + (column + i) * call.groups();
    for (std::size_t block = 0; block < blocks; ++block) {
      alignas(16) std::uint32_t quads[kQuads];
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + block * kBlock / 2));
      const __m128i low = _mm_and_si128(v, nibble), high = _mm_and_si128(_mm_srli_epi16(v, 4), nibble);
      _mm_store_si128(reinterpret_cast<__m128i*>(quads), _mm_unpacklo_epi8(low, high));
      _mm_store_si128(reinterpret_cast<__m128i*>(quads) + 1, _mm_unpackhi_epi8(low, high));
      for (std::size_t quad = 0; quad < kQuads; ++quad) to.codes[(block * kQuads + quad) * kColumns + i] = quads[quad];
      to.scales[block * kColumns + i] = scales[(first + block) >> group_shift];
    }
  }
}

// Adds to out[TileRows, TileVectors * kLanes] the products of `blocks` blocks.
template <int TileRows, int TileVectors>
void tile(const Rows& rows, std::size_t row, std::size_t first, std::size_t blocks, const Panel& panel, std::size_t at,
          float* out, std::size_t stride) {
  __m512 sum[TileRows][TileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < TileVectors; ++j) sum[i][j] = _mm512_loadu_ps(out + i * stride + j * kLanes);
  for (std::size_t block = 0; block < blocks; ++block) {
    __m512i products[TileRows][TileVectors];
#pragma GCC unroll 8
    for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < TileVectors; ++j) products[i][j] = _mm512_setzero_si512();
    const std::int8_t* a = rows.codes + row * rows.call.depth + (first + block) * kBlock;
    for (std::size_t quad = 0; quad < kQuads; ++quad) {
      __m512i weights[TileVectors];
#pragma GCC unroll 8
      for (int j = 0; j < TileVectors; ++j)
        weights[j] = _mm512_load_si512(panel.codes + (block * kQuads + quad) * kColumns + at + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i) {
        int four;
        std::memcpy(&four, a + i * rows.call.depth + quad * 4, sizeof four);
        const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 8
        for (int j = 0; j < TileVectors; ++j) products[i][j] = _mm512_dpbusd_epi32(products[i][j], weights[j], x);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < TileRows; ++i) {
      const __m512 scale = _mm512_set1_ps(rows.scales[(row + i) * rows.blocks + first + block]);
#pragma GCC unroll 8
      for (int j = 0; j < TileVectors; ++j) {
        const __m512 both = _mm512_mul_ps(_mm512_load_ps(panel.scales + block * kColumns + at + j * kLanes), scale);
        sum[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[i][j]), both, sum[i][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < TileVectors; ++j) _mm512_storeu_ps(out + i * stride + j * kLanes, sum[i][j]);
}

template <int TileRows = kRows>
void tiles_of_rows(std::size_t count, const Rows& rows, std::size_t row, std::size_t first, std::size_t blocks,
                   const Panel& panel, float* out, std::size_t stride) {
  if (count >= TileRows) {
    for (std::size_t at = 0; at < kColumns; at += kWide * kLanes)
      tile<TileRows, kWide>(rows, row, first, blocks, panel, at, out + at, stride);
  } else if constexpr (TileRows > 1) {
    tiles_of_rows<TileRows - 1>(count, rows, row, first, blocks, panel, out, stride);
  }
}

// What zero points and offsets add: sums of activations times one number a group and column.
inline void start(const Rows& rows, std::size_t column, std::size_t columns, Scratch& memory, float* out,
                  std::size_t stride) {
  const MatMulNBitsCall& call = rows.call;
  memory.assign(rows.groups * kColumns, 0.0f);
  for (std::size_t i = 0; i < columns; ++i) {
    const std::size_t line = column + i;
    const std::uint8_t* zeros = call.zero_points ? call.zero_points + line * call.zero_point_bytes() : nullptr;
    for (std::size_t group = 0; group < rows.groups; ++group) {
      const int zero = !zeros ? call.middle() : zeros[group / 2] >> group % 2 * 4 & 15;
      memory[group * kColumns + i] = -call.scales[line * rows.groups + group] * static_cast<float>(zero);
    }
  }
  gemm(call.rows, kColumns, rows.groups, rows.sums, rows.groups, memory.data(), kColumns, out, stride, false);
  if (!call.offsets) return;
  for (std::size_t i = 0; i < columns; ++i)
    for (std::size_t group = 0; group < rows.groups; ++group)
      memory[group * kColumns + i] = call.offsets[(column + i) * rows.groups + group];
  gemm(call.rows, kColumns, rows.groups, rows.exact_sums, rows.groups, memory.data(), kColumns, out, stride, true);
}

inline void columns_task(void* context, std::size_t index) {
  const Rows& rows = *static_cast<const Rows*>(context);
  const MatMulNBitsCall& call = rows.call;
  const std::size_t column = index * kColumns, columns = std::min(kColumns, call.columns - column);
  const bool fits = columns == kColumns;
  thread_local Scratch memory, padded;
  thread_local Panel panel;
  if (!fits) {
    padded.resize(call.rows * kColumns);
    panel = {};
  }
  float* out = fits ? call.out + column : padded.data();
  const std::size_t stride = fits ? call.columns : kColumns;
  start(rows, column, columns, memory, out, stride);
  for (std::size_t first = 0; first < rows.blocks; first += kBlocks) {
    const std::size_t blocks = std::min(kBlocks, rows.blocks - first);
    pack(call, column, columns, first, blocks, panel);
    for (std::size_t row = 0; row < call.rows; row += kRows)
      tiles_of_rows(call.rows - row, rows, row, first, blocks, panel, out + row * stride, stride);
  }
  if (!fits)
    for (std::size_t row = 0; row < call.rows; ++row)
      std::copy_n(out + row * kColumns, columns, call.out + row * call.columns + column);
}

}  // namespace code_panels

inline void run_code_panels(const MatMulNBitsCall& call, const Parallel& parallel, Scratch& scratch) {
  using namespace code_panels;
  const std::size_t blocks = call.depth / kBlock, groups = call.groups();
  const std::size_t size = call.rows * (call.depth / sizeof(float) + blocks + 2 * groups);
  if (scratch.size() < size) scratch.resize(size);
  float* scales = scratch.data() + call.rows * call.depth / sizeof(float);
  float* sums = scales + call.rows * blocks;
  Rows rows{call,  reinterpret_cast<std::int8_t*>(scratch.data()), scales, sums, sums + call.rows * groups, blocks,
            groups};
  parallel.run(parallel.self, quantize_task, (call.rows + kRowsATask - 1) / kRowsATask, &rows);
  parallel.run(parallel.self, columns_task, (call.columns + kColumns - 1) / kColumns, &rows);
}

#endif

}  // namespace edgekiln::EDGEKILN_ISA
