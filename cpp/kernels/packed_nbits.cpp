// Products with weights in panels, by the instructions for products of bytes: unsigned codes of the weight times signed
// codes of the activations, in blocks of 32 with a scale each.
//
// Many rows times 8-bit weights are multiplied as they are, in float: who takes 8 bits in groups wants their precision.
//
// The sum of (code - middle) * activation starts at -middle * the sum of the block's activations, so that the middle
// costs nothing. Zero points and offsets cost one more product a group.
#include "kernels/packed_nbits.h"

#include <algorithm>
#include <cstring>

#include "kernels/float_panels.h"
#include "kernels/group_params.h"
#include "kernels/nbits_prefill.h"
#include "kernels/panel_parts.h"
#include "kernels/row_tasks.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kBlock = 32;
constexpr int kPanels = 2;

static_assert(kLanes == kPanelWidth);

// Activations in blocks of scale * code. Codes are ordered as the weight's: for 4 bits the even and then the odd ones
// of each eight.
struct Rows {
  const CodePanels& panels;
  const float* a;
  std::size_t count, blocks, groups;
  float* out;
  std::int8_t* codes;    // [count, depth]
  std::int32_t* starts;  // [blocks, count], -middle * sum of codes, or 0 with zero points
  float* scales;         // [blocks, count]
  float* sums;           // [groups, count], of the activations; with zero points or a shift of the rounded ones
};

float sum_of(const float* block) {
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_loadu_ps(block), _mm512_loadu_ps(block + kLanes)));
}

template <int Bits>
void quantize_row(const Rows& rows, std::size_t row) {
  const CodePanels& panels = rows.panels;
  const float* a = rows.a + row * panels.depth;
  for (std::size_t group = 0; group < rows.groups; ++group) rows.sums[group * rows.count + row] = 0.0f;
  const bool zero_points = panels.zero == Zero::kZeroPoints, rounded_sums = zero_points || panels.shift != 0.0f;
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  for (std::size_t block = 0; block < rows.blocks; ++block) {
    const RoundedBlock rounded = rounded_block(a + block * kBlock);
    __m256i codes = _mm256_set_m128i(rounded.codes[1], rounded.codes[0]);
    if constexpr (Bits == 4) codes = _mm256_shuffle_epi8(codes, order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows.codes + row * panels.depth + block * kBlock), codes);
    rows.starts[block * rows.count + row] = zero_points ? 0 : -(1 << (Bits - 1)) * rounded.sum;
    rows.scales[block * rows.count + row] = rounded.scale;
    rows.sums[block * kBlock / panels.group * rows.count + row] +=
        rounded_sums ? rounded.scale * static_cast<float>(rounded.sum) : sum_of(a + block * kBlock);
  }
}

// Rows [row, row + TileRows) times panels [panel, panel + TilePanels).
template <int Bits, bool Half_, int TileRows, int TilePanels>
void tile(const Rows& rows, std::size_t row, std::size_t panel) {
  const CodePanels& panels = rows.panels;
  const std::size_t blocks_a_group = panels.group / kBlock, record_bytes = panels.record_bytes();
  const std::size_t depth = panels.depth, panel_bytes = panels.panel_bytes(), count = rows.count;
  const bool zeros = panels.zero != Zero::kMiddle || panels.shift != 0.0f;
  const std::int8_t* a = rows.codes + row * depth;
  const std::int32_t* starts = rows.starts + row;
  const float *scales = rows.scales + row, *of_group = rows.sums + row;
  const std::uint8_t* record = panels.panel(panel);
  Floats totals[TileRows][TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) totals[i][j] = Floats{};
  for (std::size_t group = 0; group < rows.groups; ++group, record += record_bytes, of_group += count) {
    if constexpr (TilePanels == 1) {
      for (std::size_t line = 0; line < record_bytes; line += sizeof(__m512i)) ask_ahead(record + line);
    }
    const std::uint8_t* codes = record;
    for (std::size_t block = 0; block < blocks_a_group; ++block, a += kBlock, starts += count, scales += count) {
      __m512i sums[TileRows][TilePanels];
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_set1_epi32(starts[i]);
#pragma GCC unroll 8
      for (int vector = 0; vector < Bits; ++vector, codes += sizeof(__m512i)) {
        __m512i low[TilePanels], high[TilePanels];
#pragma GCC unroll 2
        for (int j = 0; j < TilePanels; ++j) {
          low[j] = _mm512_loadu_si512(codes + j * panel_bytes);
          if constexpr (Bits == 4) {
            high[j] = _mm512_and_si512(_mm512_srli_epi16(low[j], 4), _mm512_set1_epi8(15));
            low[j] = _mm512_and_si512(low[j], _mm512_set1_epi8(15));
          }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TileRows; ++i) {
          const std::int8_t* four = a + i * depth + vector * 32 / Bits;
#pragma GCC unroll 2
          for (int j = 0; j < TilePanels; ++j) {
            sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], low[j], repeated(four));
            if constexpr (Bits == 4) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], high[j], repeated(four + 4));
          }
        }
      }
#pragma GCC unroll 2
      for (int j = 0; j < TilePanels; ++j) {
        const Floats scale = Numbers<Half_>(panels, record + j * panel_bytes).scale;
#pragma GCC unroll 8
        for (int i = 0; i < TileRows; ++i)
          totals[i][j] += reinterpret_cast<Floats>(_mm512_cvtepi32_ps(sums[i][j])) * (scale * scales[i]);
      }
    }
    if (!zeros) continue;
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) {
      const Floats zero = Numbers<Half_>(panels, record + j * panel_bytes).zero;
#pragma GCC unroll 8
      for (int i = 0; i < TileRows; ++i) totals[i][j] += zero * of_group[i];
    }
  }
  Floats results[TileRows * TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < TilePanels; ++j) results[i * TilePanels + j] = totals[i][j];
  for (int j = 0; j < TilePanels; ++j) {
    const std::size_t column = (panel + j) * kPanelWidth, width = std::min(kPanelWidth, panels.columns - column);
    for (int i = 0; i < TileRows; ++i)
      std::memcpy(rows.out + (row + i) * panels.columns + column, &results[i * TilePanels + j], width * sizeof(float));
  }
}

template <int Bits, bool Half_, int TilePanels, int TileRows = kRowsOfTile<TilePanels>>
void tiles_of_rows(const Rows& rows, std::size_t row, std::size_t panel) {
  if (rows.count - row >= TileRows) {
    tile<Bits, Half_, TileRows, TilePanels>(rows, row, panel);
  } else if constexpr (TileRows > 1) {
    tiles_of_rows<Bits, Half_, TilePanels, TileRows - 1>(rows, row, panel);
  }
}

struct Task {
  const Rows& rows;
  std::size_t panels_a_task;
};

// Few rows take one panel after another, in the order of memory; more take two, so that each load serves twice.
template <int Bits, bool Half_, int TilePanels>
void panels_task(void* context, std::size_t index) {
  const auto& [rows, panels_a_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_a_task, rows.panels.panels());
  std::size_t panel = index * panels_a_task;
  for (; panel + TilePanels <= last; panel += TilePanels)
    for (std::size_t row = 0; row < rows.count; row += kRowsOfTile<TilePanels>)
      tiles_of_rows<Bits, Half_, TilePanels>(rows, row, panel);
  for (; panel < last; ++panel)
    for (std::size_t row = 0; row < rows.count; row += kRowsOfTile<1>) tiles_of_rows<Bits, Half_, 1>(rows, row, panel);
}

struct Exact {
  const CodePanels& panels;
  const float* a;
  std::size_t rows;
  float* out;
};

// to[depth, kFloatColumns] = the float weights of 8 bits in `count` columns, from row `start` of depth on.
template <bool Half_>
void dequantize(const CodePanels& panels, std::size_t column, std::size_t count, std::size_t start, std::size_t depth,
                float* to) {
  for (std::size_t at = 0; at < count; at += kPanelWidth) {
    const std::uint8_t* panel = panels.panel((column + at) / kPanelWidth);
    for (std::size_t k = 0; k < depth; ++k) {
      const std::size_t group = (start + k) / panels.group, within = (start + k) % panels.group;
      const std::uint8_t* record = panel + group * panels.record_bytes();
      const __m512i quads = _mm512_loadu_si512(record + within / 4 * sizeof(__m512i));
      const __m512i codes = _mm512_and_si512(_mm512_srli_epi32(quads, within % 4 * 8), _mm512_set1_epi32(255));
      const Numbers<Half_> numbers(panels, record);
      const float middle = panels.zero == Zero::kZeroPoints ? 0.0f : 128.0f;
      store(to + k * kFloatColumns + at,
            (reinterpret_cast<Floats>(_mm512_cvtepi32_ps(codes)) - middle) * numbers.scale + numbers.zero);
    }
  }
}

template <bool Half_>
void exact_task(void* context, std::size_t index) {
  const Exact& exact = *static_cast<const Exact*>(context);
  const CodePanels& panels = exact.panels;
  multiply_float_panel(exact.a, exact.rows, panels.depth, panels.columns, index * kFloatColumns, exact.out,
                       [&](std::size_t first, std::size_t count, std::size_t k, std::size_t depth, float* to) {
                         dequantize<Half_>(panels, first, count, k, depth, to);
                       });
}

template <int Bits, bool Half_>
void run(const Rows& rows, const Parallel& parallel) {
  const std::size_t panels = rows.panels.panels();
  for_each_row(rows.count, rows.panels.depth, parallel, [&](std::size_t row) { quantize_row<Bits>(rows, row); });
  if (rows.count <= kQuantizedRows) {
    Task task{rows, panels_a_task(panels, rows.panels.panel_bytes())};
    parallel.run(parallel.self, panels_task<Bits, Half_, 1>, divided(panels, task.panels_a_task), &task);
  } else {
    Task task{rows, kPanels};
    parallel.run(parallel.self, panels_task<Bits, Half_, kPanels>, divided(panels, kPanels), &task);
  }
}

}  // namespace

void multiply_code_panels(const CodePanels& panels, const float* a, std::size_t count, float* out,
                          const Parallel& parallel, Scratch& scratch) {
  if (panels.bits == 8 && count > kQuantizedRows) {
    Exact exact{panels, a, count, out};
    auto* task = panels.half ? exact_task<true> : exact_task<false>;
    return parallel.run(parallel.self, task, divided(panels.columns, kFloatColumns), &exact);
  }
  if (panels.bits == 4 && count >= kPromptRows) return multiply_prompt(panels, a, count, out, parallel, scratch);
  const std::size_t blocks = panels.depth / kBlock, groups = panels.groups();
  const std::size_t size = count * (panels.depth / sizeof(float) + 2 * blocks + groups);
  float* memory = at_least(scratch, size);
  float* scales = memory + count * panels.depth / sizeof(float);
  float* sums = scales + count * blocks;
  auto* starts = reinterpret_cast<std::int32_t*>(sums + count * groups);
  const Rows rows{panels, a, count, blocks, groups, out, reinterpret_cast<std::int8_t*>(memory), starts, scales, sums};
  if (panels.bits == 4) {
    panels.half ? run<4, true>(rows, parallel) : run<4, false>(rows, parallel);
  } else {
    panels.half ? run<8, true>(rows, parallel) : run<8, false>(rows, parallel);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
