// Causal grouped-query attention in float.
#include "kernels/vector/attention_phases.h"
#include "kernels/vector/attention_prefill.h"

namespace edgekiln::EDGEKILN_ISA {

void attention_prefill(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  prefill<FloatOperands>(args, parallel, scratch);
}

void attention(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  (args.length <= kDecodeTokens ? attention_decode : attention_prefill)(args, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
