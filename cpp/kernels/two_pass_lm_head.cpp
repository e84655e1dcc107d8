// Products with all columns in 4 bits, and again in 4 bits with those that are near the largest.
#include "kernels/two_pass_lm_head.h"

#include <algorithm>
#include <limits>

#include "kernels/panel_parts.h"
#include "kernels/scales.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {

void multiply_code_panels(const CodePanels&, const float*, std::size_t, float*, const Parallel&, Scratch&);

namespace {

constexpr std::size_t kBlock = 32, kBlocksAVector = 4;  // of a lower half's bytes
constexpr std::size_t kNearATask = 128;
constexpr std::size_t kAheadOfNear = 6;  // asked for before they are multiplied: they lie apart
constexpr std::size_t kColumnsARange = 512;

// Activations that meet four blocks of lower halves; a block's sums take four lanes.
struct Part {
  __m512i low, high;
  __m512 start;  // -kMiddleOfLower times the sum of a block's codes, in the first of its lanes
  __m512 scale;
};

// Results near their row's largest, and what they lack.
struct Refinement {
  const Shortlist& shortlist;
  const Part* parts;  // [rows, count]
  std::size_t count;
  const std::int32_t* near;  // indices into `out`
  std::size_t near_count;
  float* out;  // [rows, columns]
};

// Blocks past the last are zero: what their part of a column holds does not matter.
void make_parts(const float* a, std::size_t blocks, Part* parts) {
  for (std::size_t first = 0; first < blocks; first += kBlocksAVector, ++parts) {
    alignas(64) __m128i low[kBlocksAVector]{}, high[kBlocksAVector]{};
    alignas(64) float start[kLanes]{}, scale[kLanes]{};
    for (std::size_t i = 0; i < std::min(kBlocksAVector, blocks - first); ++i) {
      const RoundedBlock rounded = rounded_block(a + (first + i) * kBlock);
      low[i] = rounded.codes[0];
      high[i] = rounded.codes[1];
      start[4 * i] = -kMiddleOfLower * static_cast<float>(rounded.sum);
      std::fill_n(scale + 4 * i, 4, rounded.scale);
    }
    *parts = {_mm512_load_si512(low), _mm512_load_si512(high), _mm512_load_ps(start), _mm512_load_ps(scale)};
  }
}

float lower_product(const Shortlist& shortlist, std::size_t column, const Part* parts, std::size_t count) {
  const std::uint8_t* codes = shortlist.lower_of(column);
  const Half* scales = shortlist.scales_of(column);
  const __m512i block_of_lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 total = _mm512_setzero_ps();
  for (std::size_t i = 0; i < count; ++i, codes += sizeof(__m512i), scales += kBlocksAVector) {
    const Part& part = parts[i];
    const __m512i both = _mm512_loadu_si512(codes);
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(both, nibble), part.low);
    sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), part.high);
    const __m512 scale = _mm512_permutexvar_ps(block_of_lane, _mm512_castps128_ps512(four(scales)));
    total =
        _mm512_fmadd_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums), part.start), _mm512_mul_ps(scale, part.scale), total);
  }
  return _mm512_reduce_add_ps(total);
}

void ask_for(const Shortlist& shortlist, std::size_t column) {
  const std::uint8_t* codes = shortlist.lower_of(column);
  const Half* scales = shortlist.scales_of(column);
  for (std::size_t at = 0; at < shortlist.blocks() * kBlock / 2; at += 64) _mm_prefetch(codes + at, _MM_HINT_T0);
  for (std::size_t at = 0; at < shortlist.blocks(); at += 32) _mm_prefetch(scales + at, _MM_HINT_T0);
}

void refine_task(void* context, std::size_t index) {
  const Refinement& refinement = *static_cast<const Refinement*>(context);
  const Shortlist& shortlist = refinement.shortlist;
  const std::size_t columns = shortlist.upper.columns;
  const std::size_t last = std::min((index + 1) * kNearATask, refinement.near_count);
  for (std::size_t i = index * kNearATask; i < last; ++i) {
    ask_for(shortlist, refinement.near[std::min(i + kAheadOfNear, last - 1)] % columns);
    const std::size_t at = refinement.near[i];
    refinement.out[at] +=
        lower_product(shortlist, at % columns, refinement.parts + at / columns * refinement.count, refinement.count);
  }
}

float largest_of(const float* values, std::size_t count) {
  __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(values + i));
  float result = _mm512_reduce_max_ps(largest);
  for (; i < count; ++i) result = std::max(result, values[i]);
  return result;
}

// Where values are no less than `least`, in order, from `first` for the first; whole vectors are written. Their number.
std::size_t indices_from(const float* values, std::size_t count, float least, std::size_t first,
                         std::int32_t* indices) {
  __m512i index = _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                   _mm512_set1_epi32(static_cast<int>(first)));
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; i += kLanes) {
    const __mmask16 there = count - i < kLanes ? static_cast<__mmask16>((1u << (count - i)) - 1) : __mmask16{0xffff};
    const __mmask16 near =
        _mm512_mask_cmp_ps_mask(there, _mm512_maskz_loadu_ps(there, values + i), _mm512_set1_ps(least), _CMP_GE_OQ);
    _mm512_storeu_si512(indices + found, _mm512_maskz_compress_epi32(near, index));
    found += static_cast<std::size_t>(__builtin_popcount(near));
    index = _mm512_add_epi32(index, _mm512_set1_epi32(kLanes));
  }
  return found;
}

// Of all rows, one range of columns after another: the lower halves of a range are read once for all of them. Their
// number.
std::size_t near_largest(const float* out, std::size_t rows, std::size_t columns, float margin, std::int32_t* near) {
  float least[kQuantizedRows];
  for (std::size_t row = 0; row < rows; ++row) least[row] = largest_of(out + row * columns, columns) - margin;
  std::size_t found = 0;
  for (std::size_t first = 0; first < columns; first += kColumnsARange)
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t at = row * columns + first;
      found += indices_from(out + at, std::min(kColumnsARange, columns - first), least[row], at, near + found);
    }
  return found;
}

}  // namespace

void multiply_shortlist(const Shortlist& shortlist, const float* a, std::size_t rows, float* out,
                        const Parallel& parallel, Scratch& scratch) {
  const std::size_t columns = shortlist.upper.columns, count = divided(shortlist.blocks(), kBlocksAVector);
  multiply_code_panels(shortlist.upper, a, rows, out, parallel, scratch);
  constexpr std::size_t kPartFloats = sizeof(Part) / sizeof(float);
  auto* parts = reinterpret_cast<Part*>(at_least(scratch, rows * count * kPartFloats + rows * columns + kLanes));
  auto* near = reinterpret_cast<std::int32_t*>(parts + rows * count);
  for (std::size_t row = 0; row < rows; ++row)
    make_parts(a + row * shortlist.upper.depth, shortlist.blocks(), parts + row * count);
  const std::size_t found = near_largest(out, rows, columns, shortlist.margin, near);
  Refinement refinement{shortlist, parts, count, near, found, out};
  parallel.run(parallel.self, refine_task, divided(found, kNearATask), &refinement);
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
