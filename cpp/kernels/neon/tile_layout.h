// How the tiles of 8 tokens have their quantized activations, for 16 values of k:
//
//   SMMLA  [k / 8][4 pairs of tokens][2][8]
//   SDOT   [8 tokens][16]
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kTileTokens = 8;
inline constexpr std::size_t kCodesK = 16;  // values of k of which store_codes() stores the codes

// Stores the codes of a token for values [k, k + kCodesK) to the codes of its tile.
inline void store_codes(std::int8_t* tile, std::size_t token, std::size_t k, int8x16_t codes) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  std::int8_t* to = tile + k * kTileTokens + token * 8;
  vst1_s8(to, vget_low_s8(codes));
  vst1_s8(to + 8 * kTileTokens, vget_high_s8(codes));
#else
  vst1q_s8(tile + k * kTileTokens + token * kCodesK, codes);
#endif
}

}  // namespace edgekiln::EDGEKILN_ISA
