// prompt_panels.cpp for processors that multiply tiles: both sides are rounded to bfloat16, whose products add up in
// float over the whole depth. Tiles of int8 are twice as fast, but then a scale of every few activations and weights
// has to be multiplied in between, which takes longer than that saves.
#include "kernels/amx.h"
#include "kernels/group_params.h"
#include "kernels/nbits_prefill.h"
#include "kernels/panel_parts.h"
#include "kernels/row_tasks.h"

#if defined(EDGEKILN_TILES)

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kPanels = 4;                                           // of a task
constexpr std::size_t kRows = 2 * tiles::kRows, kColumns = 2 * kPanelWidth;  // that are multiplied at once
constexpr std::size_t kDepth = 2 * tiles::kRows;                             // of a tile of pairs

struct Prompt {
  const CodePanels& panels;
  const float* a;
  std::size_t rows, stride;
  float* out;
  Pair* pairs;  // [rows, stride], of the activations
};

// A line of pairs of bfloat16 from the floats of two rows of depth.
inline __m512i paired(Floats first, Floats second) {
  const auto rounded = [](Floats x) {
    return _mm512_add_epi32(reinterpret_cast<__m512i>(x), _mm512_set1_epi32(0x8000));
  };
  const __m512i low = _mm512_srli_epi32(rounded(first), 16);
  return _mm512_or_si512(low, _mm512_andnot_si512(_mm512_set1_epi32(0xffff), rounded(second)));
}

// to[depth / 2, 16 columns] = the weights of a panel. A lane of its codes holds four pairs of a column.
template <bool Half_>
void widen(const CodePanels& panels, std::size_t panel, std::uint8_t* to) {
  const std::uint8_t* record = panels.panel(panel);
  const __m512i nibble = _mm512_set1_epi32(15);
  for (std::size_t group = 0; group < panels.groups(); ++group, record += panels.record_bytes()) {
    const Numbers<Half_> numbers(panels, record);
    const auto weights = [&](__m512i codes) {
      return numbers.first +
             numbers.scale * reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_and_si512(codes, nibble)));
    };
    for (std::size_t at = 0; at < panels.codes_bytes(); at += sizeof(__m512i)) {
      const __m512i codes = _mm512_loadu_si512(record + at);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair, to += sizeof(__m512i))
        _mm512_store_si512(
            to, paired(weights(_mm512_srli_epi32(codes, 8 * pair)), weights(_mm512_srli_epi32(codes, 8 * pair + 4))));
    }
  }
}

// Panels [first, first + count) as [count, depth / 2, 16 pairs], in this thread's memory until it asks again.
const std::uint8_t* widened(const CodePanels& panels, std::size_t first, std::size_t count) {
  const std::size_t panel_bytes = panels.depth * tiles::kBytes / 2;
  thread_local Scratch memory;
  auto* weights = reinterpret_cast<std::uint8_t*>(at_least(memory, count * panel_bytes / sizeof(float)));
  for (std::size_t i = 0; i < count; ++i)
    (panels.half ? widen<true> : widen<false>)(panels, first + i, weights + i * panel_bytes);
  return weights;
}

// Rows [row, row + kRows) times `count` panels from `panel` on, up to two, whose weights are at `weights`.
void multiply(const Prompt& prompt, std::size_t row, std::size_t panel, std::size_t count,
              const std::uint8_t* weights) {
  const std::size_t depth = prompt.panels.depth, columns = prompt.panels.columns;
  const std::size_t rows = std::min(kRows, prompt.rows - row), line = prompt.stride * sizeof(Pair);
  alignas(tiles::kBytes) float sums[kRows][kColumns];
  tiles::product<tiles::Numbers::kPairs>(divided(rows, tiles::kRows), count, prompt.pairs + row * prompt.stride,
                                         {line, tiles::kBytes, tiles::kRows * line}, weights,
                                         {tiles::kBytes, tiles::kTile, depth * tiles::kBytes / 2}, depth / kDepth, sums,
                                         {sizeof sums[0], tiles::kBytes, tiles::kRows * sizeof sums[0]}, false);
  const std::size_t column = panel * kPanelWidth, width = std::min(count * kPanelWidth, columns - column);
  float* out = prompt.out + row * columns + column;
  if (width == kColumns) {
    for (std::size_t i = 0; i < rows; ++i, out += columns) std::memcpy(out, sums[i], sizeof sums[0]);
  } else {
    for (std::size_t i = 0; i < rows; ++i, out += columns) std::memcpy(out, sums[i], width * sizeof(float));
  }
}

void panels_task(void* context, std::size_t index) {
  const Prompt& prompt = *static_cast<const Prompt*>(context);
  const CodePanels& panels = prompt.panels;
  const std::size_t first = index * kPanels, count = std::min(kPanels, panels.panels() - first);
  const std::uint8_t* weights = widened(panels, first, count);
  const tiles::Configured configured;
  for (std::size_t j = 0; j < count; j += 2, weights += panels.depth * tiles::kBytes)
    for (std::size_t row = 0; row < prompt.rows; row += kRows)
      multiply(prompt, row, first + j, std::min<std::size_t>(2, count - j), weights);
}

}  // namespace

void multiply_prompt(const CodePanels& panels, const float* a, std::size_t rows, float* out, const Parallel& parallel,
                     Scratch& scratch) {
  const std::size_t stride = tiles::stride_of(panels.depth / 2 * sizeof(Pair)) / sizeof(Pair);
  const std::size_t size = tiles::whole_rows(rows) * stride;
  Prompt prompt{panels, a, rows, stride, out, reinterpret_cast<Pair*>(at_least(scratch, size))};
  for_each_row(rows, panels.depth, parallel,
               [&](std::size_t row) { to_pairs(a + row * panels.depth, panels.depth, prompt.pairs + row * stride); });
  parallel.run(parallel.self, panels_task, divided(panels.panels(), kPanels), &prompt);
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
