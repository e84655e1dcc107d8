// The activations' codes are made unsigned, around 128, as the instruction for products of bytes wants them: each
// column's sum starts at -128 * the sum of its codes, so that the result is that of signed ones.
#include "row_quantized.h"

#include <algorithm>
#include <cstring>

#include "panel_parts.h"
#include "row_tasks.h"
#include "vector.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kPanels = 4;
constexpr float kSmallestMaximum = 1e-10f;  // keeps the scale of a row of zeros finite
constexpr std::size_t kQuad = Int8Panels::kQuad;

static_assert(kLanes == Int8Panels::kWidth);

struct Product {
  const Int8Panels& panels;
  const float* a;
  std::size_t rows;
  float* out;
  std::size_t stride;   // of codes
  std::uint8_t* codes;  // [rows, stride]
  float* scales;        // [rows]
  std::size_t panels_a_task, rows_a_task;
};

void quantize_row(const Product& product, std::size_t row) {
  const std::size_t depth = product.panels.depth, whole = depth / kLanes * kLanes;
  const float* a = product.a + row * depth;
  std::uint8_t* codes = product.codes + row * product.stride;
  const auto rest = static_cast<__mmask16>((1u << (depth - whole)) - 1);
  __m512 most = _mm512_abs_ps(_mm512_maskz_loadu_ps(rest, a + whole));
  for (std::size_t i = 0; i < whole; i += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(a + i)));
  const float largest = std::max(_mm512_reduce_max_ps(most), kSmallestMaximum);
  const __m512 inverse = _mm512_set1_ps(127.0f / largest);
  const __m512i middle = _mm512_set1_epi32(Int8Panels::kMiddle);
  const auto rounded = [&](__m512 x) {
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), middle));
  };
  for (std::size_t i = 0; i < whole; i += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), rounded(_mm512_loadu_ps(a + i)));
  if (rest) _mm_mask_storeu_epi8(codes + whole, rest, rounded(_mm512_maskz_loadu_ps(rest, a + whole)));
  product.scales[row] = largest / 127.0f;
}

// Adds the products of four of a row's codes with a vector of weights.
inline __m512i added(__m512i sum, const std::uint8_t* codes, __m512i weights) {
  return _mm512_dpbusd_epi32(sum, repeated(codes), weights);
}

// Scales sums of codes around the middle and writes them.
void finish(const Product& product, std::size_t row, std::size_t panel, __m512i sum) {
  const Int8Panels& panels = product.panels;
  const std::size_t column = panel * kLanes, width = std::min<std::size_t>(kLanes, panels.columns - column);
  sum = _mm512_add_epi32(sum, _mm512_loadu_si512(panels.starts.data() + column));
  const __m512 scale = _mm512_loadu_ps(panels.scales.data() + column);
  const __m512 of_row = _mm512_mul_ps(scale, _mm512_set1_ps(product.scales[row]));
  _mm512_mask_storeu_ps(product.out + row * panels.columns + column, static_cast<__mmask16>((1u << width) - 1),
                        _mm512_mul_ps(_mm512_cvtepi32_ps(sum), of_row));
}

// One row times a panel, in four sums, so that none waits for itself.
void one_row(const Product& product, std::size_t row, std::size_t panel) {
  const std::uint8_t* codes = product.codes + row * product.stride;
  const std::uint8_t* weights = product.panels.panel(panel);
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  const std::size_t quads = product.panels.quads();
  std::size_t quad = 0;
  for (; quad + 4 <= quads; quad += 4, codes += 4 * kQuad, weights += 4 * sizeof a) {
    for (std::size_t line = 0; line < 4; ++line) ask_ahead(weights + line * sizeof a);
    a = added(a, codes, _mm512_load_si512(weights));
    b = added(b, codes + kQuad, _mm512_load_si512(weights + sizeof a));
    c = added(c, codes + 2 * kQuad, _mm512_load_si512(weights + 2 * sizeof a));
    d = added(d, codes + 3 * kQuad, _mm512_load_si512(weights + 3 * sizeof a));
  }
  for (; quad < quads; ++quad, codes += kQuad, weights += sizeof a) a = added(a, codes, _mm512_load_si512(weights));
  finish(product, row, panel, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
}

// Rows [row, row + TileRows) times panels [panel, panel + TilePanels).
template <int TileRows, int TilePanels>
void tile(const Product& product, std::size_t row, std::size_t panel) {
  __m512i sums[TileRows][TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) sums[i][j] = _mm512_setzero_si512();
  const std::uint8_t* codes = product.codes + row * product.stride;
  const std::uint8_t* from = product.panels.panel(panel);
  const std::size_t stride = product.stride, panel_bytes = product.panels.panel_bytes();
  const std::size_t quads = product.panels.quads();
  for (std::size_t quad = 0; quad < quads; ++quad, codes += kQuad, from += sizeof(__m512i)) {
    __m512i weights[TilePanels];
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) weights[j] = _mm512_load_si512(from + j * panel_bytes);
    if constexpr (TilePanels == 1) ask_ahead(from);
#pragma GCC unroll 8
    for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < TilePanels; ++j) sums[i][j] = added(sums[i][j], codes + i * stride, weights[j]);
  }
  // Through memory: with more to do for each, the compiler keeps the sums there all along.
  __m512i results[TileRows * TilePanels];
#pragma GCC unroll 8
  for (int i = 0; i < TileRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < TilePanels; ++j) results[i * TilePanels + j] = sums[i][j];
  for (int i = 0; i < TileRows * TilePanels; ++i)
    finish(product, row + i / TilePanels, panel + i % TilePanels, results[i]);
}

template <int TilePanels, int TileRows = kRowsOfTile<TilePanels>>
void tiles_of_rows(const Product& product, std::size_t row, std::size_t rows, std::size_t panel) {
  if constexpr (TileRows == 1 && TilePanels == 1) {
    one_row(product, row, panel);
  } else if (rows >= TileRows) {
    tile<TileRows, TilePanels>(product, row, panel);
  } else if constexpr (TileRows > 1) {
    tiles_of_rows<TilePanels, TileRows - 1>(product, row, rows, panel);
  }
}

template <int TilePanels>
void rows_of_panels(const Product& product, std::size_t first, std::size_t last, std::size_t panel) {
  for (std::size_t row = first; row < last; row += kRowsOfTile<TilePanels>)
    tiles_of_rows<TilePanels>(product, row, last - row, panel);
}

void few_rows_task(void* context, std::size_t index) {
  const Product& product = *static_cast<const Product*>(context);
  const std::size_t last = std::min((index + 1) * product.panels_a_task, product.panels.count());
  for (std::size_t panel = index * product.panels_a_task; panel < last; ++panel)
    rows_of_panels<1>(product, 0, product.rows, panel);
}

void many_rows_task(void* context, std::size_t index) {
  const Product& product = *static_cast<const Product*>(context);
  const std::size_t groups = divided(product.panels.count(), kPanels), panel = index % groups * kPanels;
  const std::size_t first = index / groups * product.rows_a_task;
  const std::size_t last = std::min(first + product.rows_a_task, product.rows);
  switch (std::min<std::size_t>(kPanels, product.panels.count() - panel)) {
    case 1:
      return rows_of_panels<1>(product, first, last, panel);
    case 2:
      return rows_of_panels<2>(product, first, last, panel);
    case 3:
      return rows_of_panels<3>(product, first, last, panel);
    default:
      return rows_of_panels<kPanels>(product, first, last, panel);
  }
}

}  // namespace

void multiply_row_quantized(const Int8Panels& panels, const float* a, std::size_t rows, float* out,
                            const Parallel& parallel, Scratch& scratch) {
  const std::size_t stride = divided(panels.depth, sizeof(float)) * sizeof(float);
  const std::size_t size = rows * (stride / sizeof(float) + 1);
  float* steps = at_least(scratch, size);
  auto* codes = reinterpret_cast<std::uint8_t*>(steps + rows);
  // Two parts of the rows, so that an odd number of groups of panels keeps two threads busy too.
  const std::size_t rows_a_task = divided(divided(rows, 2), kRowsOfTile<kPanels>) * kRowsOfTile<kPanels>;
  Product product{panels,     a, rows, out, stride, codes, steps, panels_a_task(panels.count(), panels.panel_bytes()),
                  rows_a_task};
  for_each_row(rows, panels.depth, parallel, [&](std::size_t row) { quantize_row(product, row); });
  if (rows <= kQuantizedRows) {
    parallel.run(parallel.self, few_rows_task, divided(panels.count(), product.panels_a_task), &product);
  } else {
    parallel.run(parallel.self, many_rows_task, divided(panels.count(), kPanels) * divided(rows, rows_a_task),
                 &product);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA

#endif
