// The q4 prefill GEMM on 4-bit codes, for int8 dot products that take these without requantization.
//
// A panel or a few are unpacked, codes to bytes (of a codebook: its values) and group parameters to floats, into memory
// that stays in the L2 cache; then all tokens are multiplied with them. Results are those of the smaller GEMMs of
// nbits_gemm.cpp.
#include "kernels/packed/q4_prefill.h"

#include <algorithm>

#include "kernels/packed/group_params.h"
#include "kernels/packed/nbits_activations.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kRowBytes = kPanelWidth * sizeof(std::int32_t);  // four values of k

constexpr std::size_t kTileM = kNBitsTileM;

// A block of the quantized activations of a tile's tokens, in the order in which the tile reads it.
struct TileBlock {
  std::int8_t codes[kTileM][kBlock];
  std::int32_t compensation[kTileM];
  float scales[kTileM];
};

struct PrefillArgs {
  const PackedNBits& weight;
  std::size_t m;
  float* out;
  TileBlock* blocks;  // [tiles, k / kBlock]
  float* sums;        // [tiles, groups, kTileM]
};

struct UnpackedPanels {
  std::uint8_t* codes;  // [panels, k / 4, 16, 4]
  float* scales;        // [panels, groups, 16]
  float* biases;        // [panels, groups, 16], unused without
};

template <int Bits, bool HasFloat16>
void unpack(const PackedNBits& weight, std::size_t panel, UnpackedPanels to) {
  const CodeTable<Bits> table(weight);
  const std::uint8_t* block = weight.panel(panel);
  for (std::size_t group = 0; group < weight.groups(); ++group, block += weight.block_bytes()) {
    for (std::size_t at = 0; at < weight.codes_bytes(); at += kRowBytes, to.codes += 2 * kRowBytes)
      for (std::size_t i = 0; i < kRowBytes; i += sizeof(Bytes)) {
        const Bytes codes = load_bytes(block + at + i);
        const Bytes low = table(low_nibbles(codes)), high = table(high_nibbles(codes));
        std::memcpy(to.codes + i, &low, sizeof low);
        std::memcpy(to.codes + kRowBytes + i, &high, sizeof high);
      }
    for (std::size_t column = 0; column < kPanelWidth; column += kLanes, to.scales += kLanes, to.biases += kLanes) {
      const GroupParams<HasFloat16> params(weight, block, column);
      store(to.scales, params.scale);
      store(to.biases, params.bias);
    }
  }
}

// Of vector j of a tile's columns.
inline Floats group_params(const float* params, std::size_t groups, std::size_t group, int j) {
  return load(params + (j / kPanelVectors * groups + group) * kPanelWidth + j % kPanelVectors * kLanes);
}

// TileM tokens of tile `index` times Vectors vectors of columns, from the first of `panels` on.
template <int Bits, int TileM, int Vectors>
void tile(const PrefillArgs& args, std::size_t index, std::size_t column, const UnpackedPanels& panels) {
  using Dot = NBitsDot<multiplied_bits(Bits)>;
  const PackedNBits& weight = args.weight;
  const std::size_t groups = weight.groups(), blocks_per_group = weight.group_size / kBlock;
  const std::size_t codes_stride = weight.k * kPanelWidth;
  Floats totals[TileM][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) totals[i][j] = Floats{};
  // The biases apart from the rest, as the registers hold the totals here.
  const float* sums = args.sums + index * groups * kTileM;
  for (std::size_t group = 0; weight.has_bias() && group < groups; ++group, sums += kTileM) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      const Floats bias = group_params(panels.biases, groups, group, j);
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i) totals[i][j] += bias * sums[i];
    }
  }
  const TileBlock* a = args.blocks + index * (weight.k / kBlock);
  const std::uint8_t* codes = panels.codes;
  for (std::size_t group = 0; group < groups; ++group) {
    for (std::size_t block = 0; block < blocks_per_group; ++block, ++a) {
      typename Dot::Sum dots[TileM][Vectors];
#pragma GCC unroll 8
      for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) dots[i][j] = Dot::start(a->compensation[i]);
#pragma GCC unroll 8
      for (std::size_t at = 0; at < kBlock; at += 4, codes += kRowBytes) {
        typename Dot::Weights weights[Vectors];
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j)
          weights[j] = Dot::weights(load_bytes(codes + vector_offset(0, j, codes_stride)));
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < Vectors; ++j) dots[i][j] = Dot::add(dots[i][j], weights[j], a->codes[i] + at);
      }
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        const Floats scale = group_params(panels.scales, groups, group, j);
#pragma GCC unroll 8
        for (int i = 0; i < TileM; ++i) totals[i][j] += Dot::finish(dots[i][j]) * (scale * a->scales[i]);
      }
    }
  }
  const std::size_t n = weight.n;
#pragma GCC unroll 8
  for (int i = 0; i < TileM; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      store_columns(args.out + (index * kTileM + i) * n, n, column + j * kLanes, totals[i][j]);
}

// `tokens` of the tile, at most TileM.
template <int Bits, int Vectors, int TileM = kTileM>
void tile_of(const PrefillArgs& args, std::size_t index, std::size_t tokens, std::size_t column,
             const UnpackedPanels& panels) {
  if (tokens >= TileM) {
    tile<Bits, TileM, Vectors>(args, index, column, panels);
  } else if constexpr (TileM > 1) {
    tile_of<Bits, Vectors, TileM - 1>(args, index, tokens, column, panels);
  }
}

template <int Bits, int Panels>
void all_tokens(const PrefillArgs& args, std::size_t panel, const UnpackedPanels& panels) {
  for (std::size_t index = 0; index * kTileM < args.m; ++index)
    tile_of<Bits, Panels * kPanelVectors>(args, index, args.m - index * kTileM, panel * kPanelWidth, panels);
}

template <int Bits>
void panels_task(void* context, std::size_t index) {
  constexpr std::size_t kPanels = kNBitsTilePanels;
  const PrefillArgs& args = *static_cast<const PrefillArgs*>(context);
  const PackedNBits& weight = args.weight;
  const std::size_t panel = index * kPanels, count = std::min(kPanels, weight.panels() - panel);
  const std::size_t codes = weight.k * kPanelWidth, params = weight.groups() * kPanelWidth;
  thread_local Scratch memory;
  float* const scales = at_least(memory, kPanels * (codes / sizeof(float) + 2 * params));
  float* const biases = scales + kPanels * params;
  const UnpackedPanels panels{reinterpret_cast<std::uint8_t*>(biases + kPanels * params), scales, biases};
  for (std::size_t j = 0; j < count; ++j)
    (weight.float16_params ? unpack<Bits, true>
                           : unpack<Bits, false>)(weight, panel + j,
                                                  {panels.codes + j * codes, scales + j * params, biases + j * params});
  (count == kPanels ? all_tokens<Bits, kPanels> : all_tokens<Bits, 1>)(args, panel, panels);
}

template <int Bits>
void run(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
         Scratch& scratch) {
  const std::size_t tiles = ceil_div(m, kTileM), blocks = weight.k / kBlock, groups = weight.groups();
  float* memory = at_least(scratch, tiles * (blocks * sizeof(TileBlock) / sizeof(float) + groups * kTileM));
  PrefillArgs args{weight, m, out, reinterpret_cast<TileBlock*>(memory),
                   memory + tiles * blocks * sizeof(TileBlock) / sizeof(float)};
  for_each_row(m, weight.k, parallel, [&](std::size_t token) {
    const std::size_t tile = token / kTileM, row = token % kTileM;
    const auto put = [&](std::size_t block, BlockCodes codes, std::int32_t compensation, float scale, float sum) {
      TileBlock& to = args.blocks[tile * blocks + block];
      std::memcpy(to.codes[row], &codes, sizeof codes);
      to.compensation[row] = compensation;
      to.scales[row] = scale;
      args.sums[(tile * groups + block * kBlock / weight.group_size) * kTileM + row] = sum;
    };
    quantize_blocks<Bits>(weight, a + token * weight.k, put);
  });
  parallel.run(parallel.self, panels_task<Bits>, ceil_div(weight.panels(), kNBitsTilePanels), &args);
}

}  // namespace

void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch) {
  (weight.scheme == WeightScheme::kCodebook ? run<kCodebookCodes> : run<4>)(weight, a, m, out, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
