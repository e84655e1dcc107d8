// GEMM and GEMV with a packed 4- or 8-bit weight: int8 dot products of unsigned weight codes and signed activation
// codes, which are quantized in blocks of 32 with one scale each.
//
// Per block of 32 the accumulator starts at the compensation, -midpoint * the sum of the activation codes, so that the
// midpoint of the codes costs nothing. Zero points and group biases cost one more multiplication a group.
//
// Two cases go elsewhere: 4 bits and m >= kPrefillMinM to q4_prefill(); 8 bits and m > kGemvMaxM multiply in float, as
// group-wise 8-bit weights are chosen for precision.
#include <algorithm>
#include <cstring>

#include "kernels/isa_kernels.h"
#include "kernels/packed/nbits_activations.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/neon/nbits_tile.h"
#else
#include "kernels/packed/nbits_tile.h"
#endif
#include "kernels/packed/q4_prefill.h"
#include "kernels/vector/dequantized_gemm.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Up to TileM tokens from `token` on.
template <int Bits, bool HasFloat16, int Vectors, int TileM>
void tile_of(const NBitsGemmArgs& args, std::size_t token, std::size_t column) {
  if (args.m - token >= TileM) {
#if defined(__ARM_FEATURE_DOTPROD)
    nbits_tile_by_lane<Bits, HasFloat16, TileM, Vectors>(args, token, column);
#else
    nbits_tile<Bits, HasFloat16, TileM, Vectors>(args, token, column);
#endif
  } else if constexpr (TileM > 1) {
    tile_of<Bits, HasFloat16, Vectors, TileM - 1>(args, token, column);
  }
}

struct Task {
  const NBitsGemmArgs& args;
  std::size_t panels_per_task;
};

// A GEMV computes one panel at a time, in the order of memory.
template <int Bits, bool HasFloat16, int Vectors>
void gemv_task(void* context, std::size_t index) {
  const auto& [args, panels_per_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_per_task, args.weight.panels()) * kPanelWidth;
  for (std::size_t column = index * panels_per_task * kPanelWidth; column < last; column += Vectors * kLanes)
    tile_of<Bits, HasFloat16, Vectors, kGemvTileM<Vectors>>(args, 0, column);
}

// All tokens times panels [panel, last), Panels at a time.
template <int Bits, bool HasFloat16, int Panels = kNBitsTilePanels>
void gemm_panels(const NBitsGemmArgs& args, std::size_t panel, std::size_t last) {
  constexpr int kTileM = Panels == kNBitsTilePanels ? kNBitsTileM : kGemvTileM<Panels * kPanelVectors>;
  for (; panel + Panels <= last; panel += Panels)
    for (std::size_t token = 0; token < args.m; token += kTileM)
      tile_of<Bits, HasFloat16, Panels * kPanelVectors, kTileM>(args, token, panel * kPanelWidth);
  if constexpr (Panels > 1) gemm_panels<Bits, HasFloat16, Panels - 1>(args, panel, last);
}

template <int Bits, bool HasFloat16>
void gemm_task(void* context, std::size_t index) {
  const auto& [args, panels_per_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_per_task, args.weight.panels());
  gemm_panels<Bits, HasFloat16>(args, index * panels_per_task, last);
}

struct FloatGemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m;
  float* out;
};

// to[count_k, kFloatColumns] = the 8-bit weights of `count` columns from `column` on, from `first_k` on.
template <bool HasFloat16>
void dequantize(const PackedNBits& weight, std::size_t column, std::size_t count, std::size_t first_k,
                std::size_t count_k, float* to) {
  for (std::size_t at = 0; at < count; at += kPanelWidth) {
    const std::uint8_t* panel = weight.panel((column + at) / kPanelWidth);
    for (std::size_t k = 0; k < count_k; ++k) {
      const std::size_t group = (first_k + k) / weight.group_size, within = (first_k + k) % weight.group_size;
      const std::uint8_t* block = panel + group * weight.block_bytes();
      const float midpoint = weight.scheme == WeightScheme::kZeroPoints ? 0.0f : 128.0f;
      for (int part = 0; part < kPanelVectors; ++part) {
        Ints four;
        std::memcpy(&four, block + (within / 4 * kPanelVectors + part) * sizeof four, sizeof four);
        const Floats codes =
            __builtin_convertvector((four >> static_cast<int>(within % 4 * 8) ^ kPackedZero) & 255, Floats);
        const GroupParams<HasFloat16> params(weight, block, part * kLanes);
        store(to + k * kFloatColumns + at + part * kLanes, added(params.bias, codes - midpoint, params.scale));
      }
    }
  }
}

template <bool HasFloat16>
void float_task(void* context, std::size_t index) {
  const FloatGemmArgs& args = *static_cast<const FloatGemmArgs*>(context);
  const PackedNBits& weight = args.weight;
  dequantized_gemm(args.a, args.m, weight.k, weight.n, index * kFloatColumns, args.out,
                   [&](std::size_t first, std::size_t count, std::size_t k, std::size_t count_k, float* to) {
                     dequantize<HasFloat16>(weight, first, count, k, count_k, to);
                   });
}

template <int Bits, bool HasFloat16>
void run(const NBitsGemmArgs& args, const Parallel& parallel) {
  const std::size_t panels = args.weight.panels();
  quantize_tokens<Bits>(args, parallel);
  if (args.m <= kGemvMaxM) {
    Task task{args, panels_per_task(panels, args.weight.panel_bytes())};
    // A whole panel at once where the registers hold so many accumulators.
    auto* const run_task = args.m <= static_cast<std::size_t>(kGemvTileM<kPanelVectors>)
                               ? gemv_task<Bits, HasFloat16, kPanelVectors>
                               : gemv_task<Bits, HasFloat16, 1>;
    parallel.run(parallel.self, run_task, ceil_div(panels, task.panels_per_task), &task);
  } else {
    Task task{args, kNBitsTilePanels};
    parallel.run(parallel.self, gemm_task<Bits, HasFloat16>, ceil_div(panels, kNBitsTilePanels), &task);
  }
}

}  // namespace

void nbits_gemm(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  if (weight.bits == 8 && m > kGemvMaxM) {
    FloatGemmArgs args{weight, a, m, out};
    auto* task = weight.float16_params ? float_task<true> : float_task<false>;
    return parallel.run(parallel.self, task, ceil_div(weight.n, kFloatColumns), &args);
  }
  if (weight.bits == 4 && m >= kPrefillMinM) return q4_prefill(weight, a, m, out, parallel, scratch);
  const NBitsGemmArgs args = nbits_gemm_args(weight, a, m, out, scratch);
  if (weight.bits == 4) {
    weight.float16_params ? run<4, true>(args, parallel) : run<4, false>(args, parallel);
  } else {
    weight.float16_params ? run<8, true>(args, parallel) : run<8, false>(args, parallel);
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
