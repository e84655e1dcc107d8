// Every processor: vectors of 4 floats, compiled for the compiler's baseline (SSE2 on x86-64, NEON on 64-bit Arm).
#define EDGEKILN_ISA portable

#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::portable {

extern const InstructionSet instruction_set{
    .supported = [] { return true; },
    .kernels =
        {
            .instruction_set = "portable",
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
        },
};

}  // namespace edgekiln::portable
