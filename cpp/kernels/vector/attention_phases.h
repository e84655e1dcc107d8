// The two phases of attention, by the number of new tokens: decode (split along the keys) and prefill (blocked).
#pragma once

#include "kernels/vector/attention_parts.h"

namespace edgekiln::EDGEKILN_ISA {

// Up to so many new tokens per sequence are decoded; more are prefilled.
inline constexpr std::size_t kDecodeTokens = 8;

void attention_decode(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch);

// In float.
void attention_prefill(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch);

}  // namespace edgekiln::EDGEKILN_ISA
