// Per-token int8 GEMM in registers: tiles of kInt8TileM tokens times up to kInt8TilePanels panels.
#include "kernels/packed/int8_tile.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

template <int Panels = kInt8TilePanels>
void multiply(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t end) {
  constexpr int kTileM = Panels == kInt8TilePanels ? kInt8TileM : kGemvTileM<Panels * kPanelVectors>;
  for (; panel + Panels <= end; panel += Panels)
    int8_tiles<Int8Gemm, Panels * kPanelVectors, kTileM>(args, first, last, panel * kPanelWidth);
  if constexpr (Panels > 1) multiply<Panels - 1>(args, first, last, panel, end);
}

}  // namespace

void int8_gemm(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t count) {
  multiply(args, first, last, panel, panel + count);
}

std::size_t int8_gemm_token_multiple() { return kInt8TileM; }

std::size_t int8_gemm_stride(std::size_t k) { return ceil_div(k, sizeof(float)) * sizeof(float); }

std::size_t int8_gemm_held_tokens(std::size_t m) { return m; }

}  // namespace edgekiln::EDGEKILN_ISA
