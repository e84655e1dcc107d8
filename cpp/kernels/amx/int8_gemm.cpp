// Per-token int8 GEMM in AMX tiles: 2 x 2 tiles of 16 tokens times 16 columns. A packed panel is a stack of B tiles as
// it lies in memory: 16 rows of 64 bytes, each 4 values of k for 16 columns.
#include "kernels/amx/amx.h"
#include "kernels/packed/per_token_int8.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kTokens = 2 * tiles::kRows;  // multiplied at once

}  // namespace

static_assert(PackedInt8::kReadK == tiles::kBytes);

void int8_gemm(const Int8GemmArgs& args, std::size_t first, std::size_t last, std::size_t panel, std::size_t count) {
  const tiles::Configured configured;
  const std::size_t steps = ceil_div(args.weight.k, tiles::kBytes), panel_bytes = args.weight.panel_bytes();
  const tiles::Layout codes{args.stride, tiles::kBytes, tiles::kRows * args.stride};
  const tiles::Layout weights{tiles::kBytes, tiles::kTileBytes, panel_bytes};
  const tiles::Layout sums{2 * tiles::kBytes, tiles::kBytes, 2 * tiles::kTileBytes};
  alignas(tiles::kBytes) std::int32_t results[kTokens][2 * kLanes];
  for (std::size_t j = 0; j < count; j += 2) {
    const std::size_t width = std::min<std::size_t>(2, count - j);
    for (std::size_t token = first; token < last; token += kTokens) {
      const std::size_t tokens = std::min(kTokens, last - token);
      tiles::matmul<tiles::Type::kInt8>(ceil_div(tokens, tiles::kRows), width, args.codes + token * args.stride, codes,
                                        args.weight.panel(panel + j), weights, steps, results, sums, false);
      for (std::size_t p = 0; p < width; ++p) {
        const Epilogue epilogue(args, (panel + j + p) * kPanelWidth);
        for (std::size_t i = 0; i < tokens; ++i) {
          Ints sum;
          std::memcpy(&sum, results[i] + p * kLanes, sizeof sum);
          epilogue.store<Int8Gemm>(token + i, sum);
        }
      }
    }
  }
}

std::size_t int8_gemm_token_multiple() { return kTokens; }

std::size_t int8_gemm_stride(std::size_t k) { return tiles::stride_of(k); }

std::size_t int8_gemm_held_tokens(std::size_t m) { return tiles::whole_rows(m); }

}  // namespace edgekiln::EDGEKILN_ISA
