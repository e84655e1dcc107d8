// The q4 prefill GEMM: a packed 4-bit weight times prompts of kPrefillMinM tokens or more.
//
// Four sources implement it: packed/q4_prefill_requantized.cpp (VNNI, requantized to int8), packed/q4_prefill.cpp
// (VPMADDUBSW, 4-bit codes), neon/q4_prefill.cpp (NEON, requantized to int8) and amx/q4_prefill.cpp (AMX, bfloat16).
#pragma once

#include "kernels/common/parallel.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

// out[m, n] = a[m, k] * w.
void q4_prefill(const PackedNBits& weight, const float* a, std::size_t m, float* out, const Parallel& parallel,
                Scratch& scratch);

}  // namespace edgekiln::EDGEKILN_ISA
