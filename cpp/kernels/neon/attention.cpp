// Causal grouped-query attention in float. For NEON, whose prefill skips the keys that some query rows mask.
#include "kernels/neon/gemm.h"
#include "kernels/vector/attention_phases.h"
#include "kernels/vector/attention_prefill.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

struct NeonOperands : FloatOperands {
  static constexpr std::size_t kRowBlock = kNeonTileRows;
  static constexpr bool kSkipsMaskedKeys = true;

  template <typename... Arguments>
  static void matmul(Arguments... arguments) {
    neon_gemm(arguments...);
  }
};
static_assert(NeonOperands::kRowBlock % kLanes == 0);

}  // namespace

void attention_prefill(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  prefill<NeonOperands>(args, parallel, scratch);
}

void attention(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  (args.length <= kDecodeTokens ? attention_decode : attention_prefill)(args, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
