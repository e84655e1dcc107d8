// 4-bit codes that index a codebook: looked up right after they are loaded, they are multiplied as 8-bit codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/pack/packed_nbits.h"
#include "kernels/packed/quantized_block.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

namespace edgekiln::EDGEKILN_ISA {

// In place of the bits of a weight's codes, for the tiles, which are templates on these.
inline constexpr int kCodebookCodes = -4;

constexpr int stored_bits(int bits) { return bits == kCodebookCodes ? 4 : bits; }
constexpr int multiplied_bits(int bits) { return bits == kCodebookCodes ? 8 : bits; }

// Looks up codes that index a codebook, and leaves others as they are.
template <int Bits>
struct CodeTable {
  explicit CodeTable(const PackedNBits&) {}
  Bytes operator()(Bytes codes) const { return codes; }
};

// To packed 8-bit codes: values plus 128 or, on Arm, values.
template <>
struct CodeTable<kCodebookCodes> {
  explicit CodeTable(const PackedNBits& weight) {
    std::uint8_t codes[sizeof(Bytes)];
    for (std::size_t i = 0; i < sizeof codes; ++i)
      codes[i] = static_cast<std::uint8_t>(weight.codebook[i % kCodebookSize] + 128 - kPackedZero);
    std::memcpy(&table, codes, sizeof table);
  }

  Bytes operator()(Bytes codes) const {
#if defined(__AVX512BW__)
    return reinterpret_cast<Bytes>(
        _mm512_shuffle_epi8(reinterpret_cast<__m512i>(table), reinterpret_cast<__m512i>(codes)));
#elif defined(__AVX2__)
    return reinterpret_cast<Bytes>(
        _mm256_shuffle_epi8(reinterpret_cast<__m256i>(table), reinterpret_cast<__m256i>(codes)));
#else
    return reinterpret_cast<Bytes>(
        vqtbl1q_u8(reinterpret_cast<uint8x16_t>(table), reinterpret_cast<uint8x16_t>(codes)));
#endif
  }

  Bytes table;
};

}  // namespace edgekiln::EDGEKILN_ISA
