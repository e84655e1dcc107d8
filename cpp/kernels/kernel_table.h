// The kernels that the processor this runs on has.
#pragma once

#include <vector>

#include "kernels/attention.h"
#include "kernels/matmul_nbits.h"
#include "kernels/packed_nbits.h"
#include "kernels/per_token_int8.h"
#include "kernels/qkv_prologue.h"
#include "kernels/skip_rms_norm.h"
#include "kernels/swiglu.h"
#include "kernels/two_pass_lm_head.h"

namespace edgekiln {

// The kernels of one instruction set.
struct Kernels {
  const char* instruction_set;
  AttentionKernel attention;
  MatMulNBitsKernel matmul_n_bits;
  SkipNormKernel skip_norm;
  GatedSiluKernel gated_silu;
  PackedHeadsKernel packed_heads;
  // Null where there are no instructions for them.
  CodePanelsKernel code_panels;
  RowQuantizedKernel row_quantized;
  ShortlistKernel shortlist;
  AttentionKernel rounded_attention;  // prompts in bfloat16, with sums in float
};

// The fastest first.
const std::vector<Kernels>& kernels();

}  // namespace edgekiln
