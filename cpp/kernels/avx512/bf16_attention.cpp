// Causal grouped-query attention whose prefill multiplies in bfloat16 with float accumulators, in vectors. For
// AVX512-BF16.
#include "kernels/avx512/bf16_prefill_operands.h"
#include "kernels/vector/attention_phases.h"
#include "kernels/vector/attention_prefill.h"

namespace edgekiln::EDGEKILN_ISA {

void bf16_attention(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  if (args.length <= kDecodeTokens) return attention_decode(args, parallel, scratch);
  if (!Bf16Operands::supports(args.head_dim)) return attention_prefill(args, parallel, scratch);
  prefill<Bf16Operands>(args, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
