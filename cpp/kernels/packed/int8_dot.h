// The int8 dot products of the instruction set, on which the tiles of packed weights are built.
//
// Each header defines, for vectors of kLanes columns:
//
//   prefetch_ahead(memory)   of weights that a GEMV reads
//   kPrefetchesPanels        whether the int8 GEMM fetches the panels of its next tiles
//   quantize_block(a)        kBlock activations to QuantizedBlock
//   NBitsDot<Bits>           dot products of a block of kBlock values of k with unsigned weight codes:
//     weights(Bytes)           prepares a row of weight codes, once for all tokens of a tile
//     compensation(codes, sum, zero_points)
//                              what start() takes: codes in the order of add(), their sum. It makes the result that of
//                              code - midpoint, or with zero points that of the code itself
//     start(compensation)      an accumulator
//     add(sum, weights, four)  adds four values of k; `four` are the activation codes of a token
//     finish(sum)              the result as Floats
//   Int8Gemv, Int8Gemm       dot products over all of k with int8 weights, for m <= kGemvMaxM and larger:
//     kCodeBytes               of a stored activation code
//     kActivationZeroPoint     of these; the epilogue compensates for it
//     store_codes(to, x)       rounds 4 * kLanes activations, scaled to -127..127
//     kParts                   of each four values of k that dot() takes one after the other, each of four bytes of
//     codes weights(Bytes, part), dot(sum, weights, codes)
//   kGemvTileM<Vectors>      tokens of a GEMV's tile of so many vectors, at least kGemvMaxM for one vector
//   kNBitsTileM, kNBitsTilePanels, kInt8TileM, kInt8TilePanels
//                            tokens and panels of a GEMM's tile
#pragma once

#if defined(__AVX512F__)
#include "kernels/avx512/int8_vectors.h"
#elif defined(__AVX2__)
#include "kernels/avx2/int8_vectors.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "kernels/neon/int8_dot.h"
#else
#error "no int8 dot products for this instruction set"
#endif

#if defined(EDGEKILN_HAS_DPBUSD)
#include "kernels/avx2/vnni_dot.h"
#elif defined(__AVX2__)
#include "kernels/avx2/maddubs_dot.h"
#endif
