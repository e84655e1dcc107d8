// Per-token int8 GEMM in registers: tiles of 6 tokens times up to 4 panels. For AVX512-VNNI without AMX.
#include "kernels/avx512/int8_tile.h"

namespace edgekiln::EDGEKILN_ISA {

void int8_gemm(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t count) {
  switch (count) {
    case 1:
      return int8_tiles<1>(args, first, last, panel);
    case 2:
      return int8_tiles<2>(args, first, last, panel);
    case 3:
      return int8_tiles<3>(args, first, last, panel);
    default:
      return int8_tiles<kInt8GemmPanels>(args, first, last, panel);
  }
}

std::size_t int8_gemm_token_multiple() { return kTileM<kInt8GemmPanels>; }

std::size_t int8_gemm_stride(std::size_t k) { return ceil_div(k, sizeof(float)) * sizeof(float); }

std::size_t int8_gemm_held_tokens(std::size_t m) { return m; }

}  // namespace edgekiln::EDGEKILN_ISA
