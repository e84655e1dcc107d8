// The kernels that the processor this runs on has.
#pragma once

#include <vector>

#include "attention.h"
#include "code_panels.h"
#include "gated_silu.h"
#include "matmul_n_bits.h"
#include "packed_heads.h"
#include "row_quantized.h"
#include "shortlist.h"
#include "skip_norm.h"

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
