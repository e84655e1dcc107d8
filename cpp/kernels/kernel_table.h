// The kernels of one instruction set as a table of function pointers, and the tables that this processor can run.
//
// Callers (ort_ops/) take kernels() once and call through it. Each table is filled in instruction_sets/<name>.cpp;
// docs/kernels.md says how to add an instruction set or a kernel.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/add_weighted_rows.h"
#include "kernels/attention.h"
#include "kernels/causal_conv.h"
#include "kernels/common/block_quantized_row.h"
#include "kernels/gated_rms_norm.h"
#include "kernels/linear_attention.h"
#include "kernels/matmul_nbits.h"
#include "kernels/pack/packed_int8.h"
#include "kernels/pack/packed_lm_head.h"
#include "kernels/pack/packed_nbits.h"
#include "kernels/qkv_prologue.h"
#include "kernels/router.h"
#include "kernels/selective_scan.h"
#include "kernels/skip_rms_norm.h"
#include "kernels/swiglu.h"

namespace edgekiln {

// out[m, n] = a[m, k] * w, with a packed 4-, 6- or 8-bit weight. How a row is rounded depends on `tokens` and not on m:
// the number of new tokens of its sequence, so that a sequence gets the same bits in any batch. Activations are
// quantized to int8 in blocks of 32, except with 6- or 8-bit weights and tokens > kGemvMaxM, which multiply in float.
using NBitsGemmKernel = void (*)(const PackedNBits&, const float* a, std::size_t m, std::size_t tokens, float* out,
                                 const Parallel&, Scratch&);

// out[m, n] = a[m, k] * w, with a packed int8 weight (W8A8). The activations of each token are quantized to int8 with
// one scale, 1 / 127 of their largest magnitude.
using PerTokenInt8GemmKernel = void (*)(const PackedInt8&, const float* a, std::size_t m, float* out, const Parallel&,
                                        Scratch&);

// out[m, n] = a[m, k] * w[n, k]^T, all in float. A row's result does not depend on m.
using FloatGemmKernel = void (*)(const float* w, std::size_t k, std::size_t n, const float* a, std::size_t m,
                                 float* out, const Parallel&);

// Logits out[m, n] for m <= kLmHeadRows, exact only near the maximum of each token; see pack/packed_lm_head.h.
using TwoPassLmHeadKernel = void (*)(const PackedLmHead&, const float* a, std::size_t m, float* out, const Parallel&,
                                     Scratch&);

// Null where the instruction set lacks the kernel, or where ONNX Runtime's op is measured faster than the ops of this
// one (bench/suites/ops.py). ort_ops/op_table.h says which kernels an op calls.
struct KernelTable {
  const char* instruction_set;  // the name that users see: "avx512bf16"
  AttentionKernel attention = nullptr;
  MatMulNBitsKernel matmul_nbits = nullptr;
  SkipRmsNormKernel skip_rms_norm = nullptr;
  SwigluKernel swiglu = nullptr;
  QkvPrologueKernel qkv_prologue = nullptr;
  CausalConvKernel causal_conv = nullptr;
  LinearAttentionKernel linear_attention = nullptr;
  SelectiveScanKernel selective_scan = nullptr;
  GatedRmsNormKernel gated_rms_norm = nullptr;
  DequantizeRowKernel dequantize_row = nullptr;
  FloatGemmKernel float_gemm = nullptr;
  AddWeightedRowsKernel add_weighted_rows = nullptr;
  RouterKernel route = nullptr;
  NBitsGemmKernel nbits_gemm = nullptr;
  PerTokenInt8GemmKernel per_token_int8_gemm = nullptr;
  Int8Order int8_order = Int8Order::kFours;  // of the weights of per_token_int8_gemm
  TwoPassLmHeadKernel two_pass_lm_head = nullptr;
  AttentionKernel bf16_attention = nullptr;  // prefill in bfloat16 with float accumulators
};

// The tables that this processor and operating system can run, fastest first; never empty.
const std::vector<KernelTable>& supported_kernels();

// The value of EDGEKILN_ISA that leaves every op to ONNX Runtime.
inline constexpr const char* kOnnxRuntimeKernels = "onnxruntime";

// The table that is used: the fastest, or the one that the environment variable EDGEKILN_ISA names.
struct KernelSelection {
  const KernelTable* table;  // null with EDGEKILN_ISA=onnxruntime, and where there is an error
  std::string error;         // one sentence where this processor does not support what EDGEKILN_ISA names, else empty
};

// Chosen at the first call, for the life of the process.
const KernelSelection& kernel_selection();

// The table that is used, for kernels of registered ops: none is registered without a table.
inline const KernelTable& kernels() { return *kernel_selection().table; }

}  // namespace edgekiln
