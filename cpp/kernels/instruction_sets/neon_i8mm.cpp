// 64-bit Arm with dot products and int8 matrix multiplication: Cortex-A510, A710, X2, Neoverse V1 and later, Apple M2.
#define EDGEKILN_ISA neon_i8mm

#include "kernels/instruction_sets/arm_cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::neon_i8mm {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_i8mm(); },
    .kernels =
        {
            .instruction_set = "neon_i8mm",
            .attention = attention,
            .matmul_nbits = matmul_nbits,
            .skip_rms_norm = skip_rms_norm,
            .swiglu = swiglu,
            .qkv_prologue = qkv_prologue,
            .causal_conv = causal_conv,
            .linear_attention = linear_attention,
            .selective_scan = selective_scan,
            .gated_rms_norm = gated_rms_norm,
            .dequantize_row = dequantize_row,
            .float_gemm = float_gemm,
            .add_weighted_rows = add_weighted_rows,
            .route = route,
            .nbits_gemm = nbits_gemm,
            .per_token_int8_gemm = per_token_int8_gemm,
            .int8_order = Int8Order::kEights,
        },
};

}  // namespace edgekiln::neon_i8mm
