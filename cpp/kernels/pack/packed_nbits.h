// A weight of 4, 6 or 8 bits in groups, packed for the VNNI GEMMs in panels of 16 columns over all of k (what BLIS
// calls a micro-panel of B, NR = 16). A panel is one block a group; blocks and panels follow each other without gaps,
// so that a GEMV reads memory front to back.
//
//   block (panel p, group g) = 16 columns, group_size values of k:
//
//             column 16p     column 16p + 1        column 16p + 15
//           +--------------+--------------+-----+--------------+
//   4 bits  | 01  23  45  67  for k 0..7  | ... | ...          |   64 bytes = one vector: byte "01" has the code of
//           | 89  ab  cd  ef  for k 8..15 | ... | ...          |   k = 0 in its low and of k = 1 in its high nibble
//             ...
//   8 bits  | k0  k1  k2  k3              | ... | ...          |   64 bytes = one VPDPBUSD operand; less kPackedZero
//             ...
//   6 bits  | 04  15  26  37              | ... | ...          |   the lower 4 bits of k 0..7, as k0 and k4, k1 and k5
//           | 8c  9d  ae  bf              | ... | ...          |   and of k 8..15
//           | 048c  159d  26ae  37bf      | ... | ...          |   the upper 2 bits of k 0..15, of k0 the lowest
//             ...
//           +--------------+--------------+-----+--------------+
//           | 16 scales, float16 or float                      |
//           | symmetric and codebook: nothing                  |
//           | zero points: 16 bytes                            |
//           | group bias: 16 float biases, or 16 float16 mins  |   min = bias - scale * midpoint, the weight of code 0
//           +--------------------------------------------------+
//
// Weights of 8 bits in groups of 16 whose codes are all within 32 of the midpoint, as those of GGUF's Q6_K, are packed
// as 6 bits, with midpoint 32; not with zero points or float16 mins.
//
// Scales and mins are float16 if that holds all of a weight's exactly, as for weights from GGUF; else float. Factored
// scales, of 6 bits, are 16 int8 in a block, times 16 float16 in front of the panel's blocks for each kFactorGroups
// groups (pack/factored_scales.h).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "kernels/common/weight_arena.h"
#include "kernels/matmul_nbits.h"
#include "kernels/pack/factored_scales.h"

namespace edgekiln {

struct PackPlace;  // pack_place.h

inline constexpr std::size_t kPanelWidth = 16;

// Subtracted from 8-bit codes where they are packed: VPDPBUSD multiplies unsigned bytes, SDOT signed ones.
#if defined(__aarch64__)
inline constexpr int kPackedZero = 128;
#else
inline constexpr int kPackedZero = 0;
#endif

struct PackedNBits {
  std::size_t k, n, group_size;
  int bits;
  WeightScheme scheme;
  bool float16_params, factored_scales;
  ArenaBytes memory{};
  // The high nibbles of 8-bit codes (packed_lm_head.h): code c means c + code_offset, zero point z means
  // z * zero_point_scale.
  float code_offset = 0.0f, zero_point_scale = 1.0f;
  std::array<std::int8_t, kCodebookSize> codebook{};  // of WeightScheme::kCodebook

  std::size_t param_bytes() const { return float16_params ? sizeof(Float16) : sizeof(float); }
  std::size_t codes_bytes() const { return group_size * kPanelWidth * bits / 8; }
  std::size_t zero_bytes() const {
    if (scheme == WeightScheme::kSymmetric || scheme == WeightScheme::kCodebook) return 0;
    return kPanelWidth * (scheme == WeightScheme::kGroupBias ? param_bytes() : 1);
  }
  // Whether the sums of the activations of each group are multiplied, too.
  bool has_bias() const {
    return scheme == WeightScheme::kZeroPoints || scheme == WeightScheme::kGroupBias || code_offset != 0.0f;
  }
  int largest_of_codebook() const {
    int largest = 0;
    for (const int value : codebook) largest = std::max(largest, std::abs(value));
    return largest;
  }
  std::size_t scale_bytes() const { return factored_scales ? sizeof(std::int8_t) : param_bytes(); }
  std::size_t block_bytes() const { return codes_bytes() + kPanelWidth * scale_bytes() + zero_bytes(); }
  std::size_t groups() const { return k / group_size; }
  std::size_t panels() const { return (n + kPanelWidth - 1) / kPanelWidth; }
  std::size_t factors_bytes() const {
    if (!factored_scales) return 0;
    return (groups() + kFactorGroups - 1) / kFactorGroups * kPanelWidth * sizeof(Float16);
  }
  std::size_t panel_bytes() const { return factors_bytes() + groups() * block_bytes(); }
  std::size_t bytes() const { return panels() * panel_bytes(); }
  const std::uint8_t* panel(std::size_t index) const { return memory.get() + index * panel_bytes(); }
  const std::uint8_t* blocks(std::size_t panel_index) const { return panel(panel_index) + factors_bytes(); }

  // Columns [first, first + count), in the same memory; `first` is a multiple of kPanelWidth.
  PackedNBits columns(std::size_t first, std::size_t count) const {
    PackedNBits part = *this;
    part.n = count;
    part.memory = {memory, memory.get() + first / kPanelWidth * panel_bytes()};
    return part;
  }
};

// Packs the weight of `args`, whose m, a and out are ignored. Throws std::bad_alloc.
PackedNBits pack_nbits(const MatMulNBitsArgs& args);
PackedNBits pack_nbits(const MatMulNBitsArgs& args, const PackPlace& place);

// The packed weight that the cache of `place` has; nothing of `args` but its shape, and whether it has zero points or
// group biases, is read. Nullopt where the cache does not have it.
std::optional<PackedNBits> find_packed_nbits(const MatMulNBitsArgs& args, const PackPlace& place);

// How a weight is packed, which the cache stores as a number; its other properties are those of the arguments.
enum NBitsVariant : std::uint32_t { kFloat16Params = 1, kSixBits = 2, kFactoredScales = 4, kNBitsVariants = 8 };

// The variant that fits a weight; `factored` gets its scales if that has factored ones.
std::uint32_t nbits_variant(const MatMulNBitsArgs& args, FactoredScales& factored);

// The weight without its memory; `variant` is a sum of `NBitsVariant`.
PackedNBits packed_nbits_shape(const MatMulNBitsArgs& args, std::uint32_t variant);

// Packs the args.n columns from column `first` on, a multiple of kPanelWidth, to the panels at `memory`. `factored` are
// the scales of weights that have factored ones.
void pack_columns(const MatMulNBitsArgs& args, const PackedNBits& weight, std::size_t first, std::uint8_t* memory,
                  const FactoredScales& factored = {});

// From so many tokens of a sequence on, 4-bit weights run the q4 prefill GEMM: VNNI and NEON requantize them to 8 bits
// with one scale per kRequantizeK values of k, AMX dequantizes them to bfloat16. Fewer do not amortize the conversion.
// Experts run it from kExpertPrefillMinM tokens on average on.
#if defined(__aarch64__)
inline constexpr std::size_t kPrefillMinM = 16, kExpertPrefillMinM = 8;
#else
inline constexpr std::size_t kPrefillMinM = 32, kExpertPrefillMinM = 32;
#endif
inline constexpr std::size_t kRequantizeK = 128;

}  // namespace edgekiln
