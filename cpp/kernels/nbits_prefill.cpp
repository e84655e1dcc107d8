// The weights of a few columns are brought to 8 bits with few scales a column, in the second-level cache, and all rows
// are multiplied with them there: what a group's own scale costs is paid once a weight, not once a product.
//
// Activations are rounded to int8 in blocks, each with a scale; the codes of the weights are made unsigned, around 128,
// as the instruction for products of bytes wants them, so the sums of a block start at -128 * the sum of its codes.
#include "kernels/nbits_prefill.h"

#include <algorithm>
#include <cstring>

#include "kernels/group_params.h"
#include "kernels/panel_parts.h"
#include "kernels/row_tasks.h"

#if defined(__AVX512VNNI__) && !defined(EDGEKILN_TILES)

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kRows = 6, kPanels = 2;  // of a tile: as many sums, in int32 and in float, as registers hold
constexpr int kMiddle = 128;
constexpr float kLargest = 127.0f;
constexpr float kSmallestScale = 1e-30f;  // keeps the scale of a column of zeros finite
constexpr std::size_t kBlock = 32;

struct Prompt {
  const CodePanels& panels;
  const float* a;
  std::size_t rows, blocks;
  float* out;
  std::int8_t* codes;    // [rows, depth]; of each eight the even and then the odd ones, as the weights'
  std::int32_t* starts;  // [blocks, rows]
  float* scales;         // [blocks, rows]
};

void quantize_row(const Prompt& prompt, std::size_t row) {
  const std::size_t depth = prompt.panels.depth;
  const float* a = prompt.a + row * depth;
  std::int8_t* codes = prompt.codes + row * depth;
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  for (std::size_t block = 0; block < prompt.blocks; ++block, a += kBlock, codes += kBlock) {
    const __m512 x = _mm512_loadu_ps(a), y = _mm512_loadu_ps(a + kLanes);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x), _mm512_abs_ps(y)));
    const __m512 inverse = _mm512_set1_ps(largest == 0.0f ? 0.0f : kLargest / largest);
    const __m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), q = _mm512_cvtps_epi32(_mm512_mul_ps(y, inverse));
    const __m256i both = _mm256_set_m128i(_mm512_cvtepi32_epi8(q), _mm512_cvtepi32_epi8(p));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_shuffle_epi8(both, order));
    prompt.starts[block * prompt.rows + row] = -kMiddle * _mm512_reduce_add_epi32(_mm512_add_epi32(p, q));
    prompt.scales[block * prompt.rows + row] = largest / kLargest;
  }
}

// Sixteen columns' words, each twice: the two bytes of a lane's halves are multiplied alike.
inline __m512i twice(Floats x) {
  const __m512i word = _mm512_cvtps_epi32(reinterpret_cast<__m512>(x));
  return _mm512_or_si512(_mm512_and_si512(word, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(word, 16));
}

// to [depth / 4, 16 columns, 4] = the weights of a panel as 128 + their number of steps of scales[depth / kSegment,
// 16].
//
// A code times a factor in 256ths of a step, all modulo 2^16: the sum is within 127 steps, whatever its parts are.
template <bool Half_>
void widen(const CodePanels& panels, std::size_t panel, std::uint8_t* to, float* scales) {
  const std::size_t record_bytes = panels.record_bytes(), codes_bytes = panels.codes_bytes();
  const std::size_t groups_a_segment = std::max<std::size_t>(kSegment / panels.group, 1);
  const std::uint8_t* record = panels.panel(panel);
  const __m512i nibble = _mm512_set1_epi8(15), low_byte = _mm512_set1_epi16(255);
  for (std::size_t first = 0; first < panels.groups(); first += groups_a_segment, scales += kPanelWidth) {
    const std::size_t groups = std::min(groups_a_segment, panels.groups() - first);
    Floats most = broadcast(kSmallestScale);
    for (std::size_t group = 0; group < groups; ++group) {
      const Numbers<Half_> numbers(panels, record + group * record_bytes);
      const Floats first_weight = numbers.first, last_weight = numbers.first + numbers.scale * 15.0f;
      most = larger(most, larger(larger(first_weight, -first_weight), larger(last_weight, -last_weight)));
    }
    const Floats step = most / kLargest, inverse = 256.0f / step;
    store(scales, step);
    for (std::size_t group = 0; group < groups; ++group, record += record_bytes) {
      const Numbers<Half_> numbers(panels, record);
      const __m512i factor = twice(numbers.scale * inverse);
      const __m512i start = twice(numbers.first * inverse + (kMiddle * 256.0f + 128.0f));
      const auto widened = [&](__m512i codes) {
        const auto of = [&](__m512i words) { return _mm512_add_epi16(_mm512_mullo_epi16(words, factor), start); };
        const __m512i even = of(_mm512_and_si512(codes, low_byte)), odd = of(_mm512_srli_epi16(codes, 8));
        return _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low_byte, odd));
      };
      for (std::size_t at = 0; at < codes_bytes; at += sizeof(__m512i), to += 2 * sizeof(__m512i)) {
        const __m512i codes = _mm512_loadu_si512(record + at);
        _mm512_store_si512(to, widened(_mm512_and_si512(codes, nibble)));
        _mm512_store_si512(to + sizeof(__m512i), widened(_mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble)));
      }
    }
  }
}

// A part of a task: its panels in 8 bits, and the scales of their segments.
struct Widened {
  const std::uint8_t* codes;  // [panels, depth / 4, 16, 4]
  const float* scales;        // [panels, segments, 16]
};

// Rows [row, row + TileRows) times panels [panel, panel + TilePanels), which are the first of `widened`.
template <int TileRows, int TilePanels>
void tile(const Prompt& prompt, std::size_t row, std::size_t panel, Widened widened) {
  const std::size_t depth = prompt.panels.depth, panel_bytes = depth * kPanelWidth;
  const std::size_t panel_scales = divided(depth, kSegment) * kPanelWidth;
  const std::int8_t* a = prompt.codes + row * depth;
  const std::int32_t* starts = prompt.starts + row;
  const float* scales = prompt.scales + row;
  Floats results[TileRows * TilePanels];
  for (Floats& result : results) result = Floats{};
  for (std::size_t first = 0; first < prompt.blocks; first += kSegment / kBlock, widened.scales += kPanelWidth) {
    const std::size_t last = std::min(first + kSegment / kBlock, prompt.blocks);
    Floats totals[TileRows][TilePanels];
#pragma GCC unroll 8
    for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < TilePanels; ++j) totals[i][j] = Floats{};
    for (std::size_t block = first; block < last; ++block, starts += prompt.rows, scales += prompt.rows) {
      __m512i sums[TileRows][TilePanels];
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_set1_epi32(starts[i]);
#pragma GCC unroll 8
      for (std::size_t at = 0; at < kBlock; at += 4, a += 4, widened.codes += sizeof(__m512i)) {
        __m512i codes[TilePanels];
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) codes[j] = _mm512_load_si512(widened.codes + j * panel_bytes);
#pragma GCC unroll 8
        for (int i = 0; i < TileRows; ++i) {
          const __m512i four = repeated(a + i * depth);
#pragma GCC unroll 2
          for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes[j], four);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j)
          totals[i][j] += reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sums[i][j])) * scales[i];
    }
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) {
      const Floats step = load(widened.scales + j * panel_scales);
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i) results[i * TilePanels + j] += totals[i][j] * step;
    }
  }
  const std::size_t columns = prompt.panels.columns;
  for (int j = 0; j < TilePanels; ++j) {
    const std::size_t column = (panel + j) * kPanelWidth, width = std::min(kPanelWidth, columns - column);
    for (int i = 0; i < TileRows; ++i)
      std::memcpy(prompt.out + (row + i) * columns + column, &results[i * TilePanels + j], width * sizeof(float));
  }
}

template <int TilePanels, int TileRows = kRows>
void tiles_of_rows(const Prompt& prompt, std::size_t row, std::size_t panel, const Widened& widened) {
  if (prompt.rows - row >= TileRows) {
    tile<TileRows, TilePanels>(prompt, row, panel, widened);
  } else if constexpr (TileRows > 1) {
    tiles_of_rows<TilePanels, TileRows - 1>(prompt, row, panel, widened);
  }
}

template <int TilePanels>
void rows_of_panels(const Prompt& prompt, std::size_t panel, const Widened& widened) {
  for (std::size_t row = 0; row < prompt.rows; row += kRows) tiles_of_rows<TilePanels>(prompt, row, panel, widened);
}

void panels_task(void* context, std::size_t index) {
  const Prompt& prompt = *static_cast<const Prompt*>(context);
  const CodePanels& panels = prompt.panels;
  const std::size_t panel = index * kPanels, count = std::min<std::size_t>(kPanels, panels.panels() - panel);
  const std::size_t panel_bytes = panels.depth * kPanelWidth;
  const std::size_t panel_scales = divided(panels.depth, kSegment) * kPanelWidth;
  thread_local Scratch memory;
  float* scales = at_least(memory, kPanels * (panel_bytes / sizeof(float) + panel_scales));
  auto* codes = reinterpret_cast<std::uint8_t*>(scales + kPanels * panel_scales);
  for (std::size_t j = 0; j < count; ++j)
    (panels.half ? widen<true> : widen<false>)(panels, panel + j, codes + j * panel_bytes, scales + j * panel_scales);
  (count == kPanels ? rows_of_panels<kPanels> : rows_of_panels<1>)(prompt, panel, {codes, scales});
}

}  // namespace

void multiply_prompt(const CodePanels& panels, const float* a, std::size_t rows, float* out, const Parallel& parallel,
                     Scratch& scratch) {
  const std::size_t blocks = panels.depth / kBlock, size = rows * (panels.depth / sizeof(float) + 2 * blocks);
  float* memory = at_least(scratch, size);
  float* scales = memory + rows * panels.depth / sizeof(float);
  auto* starts = reinterpret_cast<std::int32_t*>(scales + rows * blocks);
  Prompt prompt{panels, a, rows, blocks, out, reinterpret_cast<std::int8_t*>(memory), starts, scales};
  for_each_row(rows, panels.depth, parallel, [&](std::size_t row) { quantize_row(prompt, row); });
  parallel.run(parallel.self, panels_task, divided(panels.panels(), kPanels), &prompt);
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
