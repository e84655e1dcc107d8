// Few rows: each panel is read once for all of them. Many rows: tiles of rows and panels, of which sums stay in
// registers or, where the processor has them, in tiles of its own.
#include "kernels/per_token_int8.h"

#include "kernels/int8_gemm_amx.h"
#include "kernels/row_tasks.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr int kPanels = 4;
constexpr std::size_t kQuad = Int8Panels::kQuad;

// Adds the products of four of a row's codes with a vector of weights.
inline __m512i added(__m512i sum, const std::uint8_t* codes, __m512i weights) {
  return _mm512_dpbusd_epi32(sum, repeated(codes), weights);
}

// One row times a panel, in four sums, so that none waits for itself.
void one_row(const QuantizedProduct& product, std::size_t row, std::size_t panel) {
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
  Finish(product, panel)(row, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
}

// Rows [row, row + TileRows) times panels [panel, panel + TilePanels).
template <int TileRows, int TilePanels>
void tile(const QuantizedProduct& product, std::size_t row, std::size_t panel) {
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
    Finish(product, panel + i % TilePanels)(row + i / TilePanels, results[i]);
}

template <int TilePanels, int TileRows = kRowsOfTile<TilePanels>>
void tiles_of_rows(const QuantizedProduct& product, std::size_t row, std::size_t rows, std::size_t panel) {
  if constexpr (TileRows == 1 && TilePanels == 1) {
    one_row(product, row, panel);
  } else if (rows >= TileRows) {
    tile<TileRows, TilePanels>(product, row, panel);
  } else if constexpr (TileRows > 1) {
    tiles_of_rows<TilePanels, TileRows - 1>(product, row, rows, panel);
  }
}

template <int TilePanels>
void rows_of_panels(const QuantizedProduct& product, std::size_t first, std::size_t last, std::size_t panel) {
  for (std::size_t row = first; row < last; row += kRowsOfTile<TilePanels>)
    tiles_of_rows<TilePanels>(product, row, last - row, panel);
}

void few_rows_task(void* context, std::size_t index) {
  const QuantizedProduct& product = *static_cast<const QuantizedProduct*>(context);
  const std::size_t last = std::min((index + 1) * product.panels_a_task, product.panels.count());
  for (std::size_t panel = index * product.panels_a_task; panel < last; ++panel)
    rows_of_panels<1>(product, 0, product.rows, panel);
}

#if defined(EDGEKILN_TILES)

constexpr std::size_t kManyRows = kTiledRows;
constexpr auto multiply_panels = multiply_tiles;
constexpr auto stride_of = tiles::stride_of;
constexpr auto held_rows = tiles::whole_rows;

#else

constexpr std::size_t kManyRows = kRowsOfTile<kPanels>;

void multiply_panels(const QuantizedProduct& product, std::size_t first, std::size_t last, std::size_t panel,
                     std::size_t count) {
  switch (count) {
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

std::size_t stride_of(std::size_t depth) { return divided(depth, sizeof(float)) * sizeof(float); }
std::size_t held_rows(std::size_t rows) { return rows; }

#endif

void many_rows_task(void* context, std::size_t index) {
  const QuantizedProduct& product = *static_cast<const QuantizedProduct*>(context);
  const std::size_t groups = divided(product.panels.count(), kPanels), panel = index % groups * kPanels;
  const std::size_t first = index / groups * product.rows_a_task;
  multiply_panels(product, first, std::min(first + product.rows_a_task, product.rows), panel,
                  std::min<std::size_t>(kPanels, product.panels.count() - panel));
}

}  // namespace

void multiply_row_quantized(const Int8Panels& panels, const float* a, std::size_t rows, float* out,
                            const Parallel& parallel, Scratch& scratch) {
  const std::size_t stride = stride_of(panels.depth), size = held_rows(rows) * stride / sizeof(float);
  float* memory = at_least(scratch, size + rows);
  // Two parts of the rows, so that an odd number of groups of panels keeps two threads busy too.
  const std::size_t rows_a_task = divided(divided(rows, 2), kManyRows) * kManyRows;
  QuantizedProduct product{panels,        a,
                           rows,          out,
                           stride,        reinterpret_cast<std::uint8_t*>(memory),
                           memory + size, panels_a_task(panels.count(), panels.panel_bytes()),
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
