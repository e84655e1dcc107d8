// GEMM and GEMV with a packed 4- or 8-bit weight: int8 dot products of unsigned weight codes and signed activation
// codes, which are quantized in blocks of 32 with one scale each.
//
// Per step, a block or with groups of 16 half of one, the accumulator starts at the compensation, -midpoint * the sum
// of the activation codes, so that the midpoint of the codes costs nothing. Zero points and group biases cost one more
// multiplication a group.
//
// Codes that index a codebook are multiplied as 8-bit codes, and else as 4-bit ones.
//
// Two cases go elsewhere: 4 bits and tokens >= kPrefillMinM to q4_prefill(); 6 and 8 bits and tokens > kGemvMaxM
// multiply in float, as such weights are chosen for precision.
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

// The number format of a packed weight as the tiles have it.
template <int Bits_, Scales kScales_, std::size_t Step_>
struct Format {
  static constexpr int kBits = Bits_;
  static constexpr Scales kScales = kScales_;
  static constexpr std::size_t kStep = Step_;
};

// Up to TileM tokens from `token` on.
template <typename Format, int Vectors, int TileM>
void tile_of(const NBitsGemmArgs& args, std::size_t token, std::size_t column) {
  if (args.m - token >= TileM) {
#if defined(__ARM_FEATURE_DOTPROD)
    nbits_tile_by_lane<Format::kBits, Format::kScales, Format::kStep, TileM, Vectors>(args, token, column);
#else
    nbits_tile<Format::kBits, Format::kScales, Format::kStep, TileM, Vectors>(args, token, column);
#endif
  } else if constexpr (TileM > 1) {
    tile_of<Format, Vectors, TileM - 1>(args, token, column);
  }
}

struct Task {
  const NBitsGemmArgs& args;
  std::size_t panels_per_task;
};

// A GEMV computes one panel at a time, in the order of memory.
template <typename Format, int Vectors>
void gemv_task(void* context, std::size_t index) {
  const auto& [args, panels_per_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_per_task, args.weight.panels()) * kPanelWidth;
  for (std::size_t column = index * panels_per_task * kPanelWidth; column < last; column += Vectors * kLanes)
    tile_of<Format, Vectors, kGemvTileM<Vectors>>(args, 0, column);
}

// All tokens times panels [panel, last), Panels at a time.
template <typename Format, int Panels = kNBitsTilePanels>
void gemm_panels(const NBitsGemmArgs& args, std::size_t panel, std::size_t last) {
  constexpr int kTileM = Panels == kNBitsTilePanels ? kNBitsTileM : kGemvTileM<Panels * kPanelVectors>;
  for (; panel + Panels <= last; panel += Panels)
    for (std::size_t token = 0; token < args.m; token += kTileM)
      tile_of<Format, Panels * kPanelVectors, kTileM>(args, token, panel * kPanelWidth);
  if constexpr (Panels > 1) gemm_panels<Format, Panels - 1>(args, panel, last);
}

template <typename Format>
void gemm_task(void* context, std::size_t index) {
  const auto& [args, panels_per_task] = *static_cast<const Task*>(context);
  const std::size_t last = std::min((index + 1) * panels_per_task, args.weight.panels());
  gemm_panels<Format>(args, index * panels_per_task, last);
}

struct FloatGemmArgs {
  const PackedNBits& weight;
  const float* a;
  std::size_t m;
  float* out;
};

// The codes of value `within` of a group whose block begins at `block`, of kLanes columns from vector `part` of the
// panel on.
template <int Bits>
Floats codes_of(const std::uint8_t* block, std::size_t within, int part) {
  const auto row = [&](std::size_t index) {
    return reinterpret_cast<Ints>(load_bytes(block + index * kNBitsRowBytes + part * sizeof(Bytes)));
  };
  const int byte = static_cast<int>(within % 4 * 8);
  if constexpr (Bits == 8) return __builtin_convertvector((row(within / 4) >> byte ^ kPackedZero) & 255, Floats);
  const std::size_t chunk = within / 16 * 3, quarter = within % 16 / 4;
  const auto nibbles = reinterpret_cast<Bytes>(row(chunk + quarter / 2));
  const Bytes codes = six_bit_codes(quarter % 2 ? high_nibbles(nibbles) : low_nibbles(nibbles), row(chunk + 2),
                                    static_cast<int>(quarter));
  return __builtin_convertvector(reinterpret_cast<Ints>(codes) >> byte & 255, Floats);
}

// to[count_k, kFloatColumns] = the 6- or 8-bit weights of `count` columns from `column` on, from `first_k` on.
template <int Bits, Scales kScales>
void dequantize(const PackedNBits& weight, std::size_t column, std::size_t count, std::size_t first_k,
                std::size_t count_k, float* to) {
  for (std::size_t at = 0; at < count; at += kPanelWidth) {
    const std::uint8_t* panel = weight.panel((column + at) / kPanelWidth);
    for (std::size_t k = 0; k < count_k; ++k) {
      const std::size_t group = (first_k + k) / weight.group_size, within = (first_k + k) % weight.group_size;
      const std::uint8_t* block = panel + weight.factors_bytes() + group * weight.block_bytes();
      const float midpoint = weight.scheme == WeightScheme::kZeroPoints ? 0.0f : 1 << (Bits - 1);
      for (int part = 0; part < kPanelVectors; ++part) {
        const Floats codes = codes_of<Bits>(block, within, part);
        float* const weights = to + k * kFloatColumns + at + part * kLanes;
        if constexpr (kScales == Scales::kFactored) {
          store(weights, (codes - midpoint) * factored_scales(weight, panel, block, group, part * kLanes));
        } else {
          const GroupParams<kScales == Scales::kFloat16> params(weight, block, part * kLanes);
          store(weights, added(params.bias, codes - midpoint, params.scale));
        }
      }
    }
  }
}

template <int Bits, Scales kScales>
void float_task(void* context, std::size_t index) {
  const FloatGemmArgs& args = *static_cast<const FloatGemmArgs*>(context);
  const PackedNBits& weight = args.weight;
  dequantized_gemm(args.a, args.m, weight.k, weight.n, index * kFloatColumns, args.out,
                   [&](std::size_t first, std::size_t count, std::size_t k, std::size_t count_k, float* to) {
                     dequantize<Bits, kScales>(weight, first, count, k, count_k, to);
                   });
}

template <typename Format>
void run_format(const NBitsGemmArgs& args, const Parallel& parallel) {
  const std::size_t panels = args.weight.panels();
  quantize_tokens<Format::kBits, Format::kStep>(args, parallel);
  if (stored_bits(Format::kBits) != 4 || args.m <= kGemvMaxM) {
    Task task{args, panels_per_task(panels, args.weight.panel_bytes())};
    // A whole panel at once where the registers hold so many accumulators.
    auto* const run_task = args.m <= static_cast<std::size_t>(kGemvTileM<kPanelVectors>)
                               ? gemv_task<Format, kPanelVectors>
                               : gemv_task<Format, 1>;
    parallel.run(parallel.self, run_task, ceil_div(panels, task.panels_per_task), &task);
  } else if constexpr (stored_bits(Format::kBits) == 4) {
    Task task{args, kNBitsTilePanels};
    parallel.run(parallel.self, gemm_task<Format>, ceil_div(panels, kNBitsTilePanels), &task);
  }
}

template <int Bits, std::size_t Step = kBlock>
void run(const NBitsGemmArgs& args, const Parallel& parallel) {
  if constexpr (Bits == 6) {
    if (args.weight.factored_scales) return run_format<Format<Bits, Scales::kFactored, Step>>(args, parallel);
  }
  (args.weight.float16_params ? run_format<Format<Bits, Scales::kFloat16, Step>>
                              : run_format<Format<Bits, Scales::kFloat, Step>>)(args, parallel);
}

// Dequantizes the weight.
template <int Bits>
void run_float(FloatGemmArgs args, const Parallel& parallel) {
  auto* task = args.weight.float16_params ? float_task<Bits, Scales::kFloat16> : float_task<Bits, Scales::kFloat>;
  if constexpr (Bits == 6) {
    if (args.weight.factored_scales) task = float_task<Bits, Scales::kFactored>;
  }
  parallel.run(parallel.self, task, ceil_div(args.weight.n, kFloatColumns), &args);
}

}  // namespace

void nbits_gemm(const PackedNBits& weight, const float* a, std::size_t m, std::size_t tokens, float* out,
                const Parallel& parallel, Scratch& scratch) {
  if (weight.bits != 4 && tokens > kGemvMaxM)
    return (weight.bits == 6 ? run_float<6> : run_float<8>)({weight, a, m, out}, parallel);
  if (weight.bits == 4 && tokens >= kPrefillMinM) return q4_prefill(weight, a, m, out, parallel, scratch);
  // A GEMV has no more rows: there are more in a batch, and where a token has an expert twice.
  for (; weight.bits != 4 && m > kGemvMaxM; m -= kGemvMaxM, a += kGemvMaxM * weight.k, out += kGemvMaxM * weight.n)
    nbits_gemm(weight, a, kGemvMaxM, tokens, out, parallel, scratch);
  const NBitsGemmArgs args = nbits_gemm_args(weight, a, m, out, scratch);
  if (weight.bits == 6) return run<6, kBlock / 2>(args, parallel);
  if (weight.scheme == WeightScheme::kCodebook) return run<kCodebookCodes>(args, parallel);
  if (weight.bits == 4) return run<4>(args, parallel);
  (weight.group_size < kBlock ? run<8, kBlock / 2> : run<8>)(args, parallel);
}

}  // namespace edgekiln::EDGEKILN_ISA
