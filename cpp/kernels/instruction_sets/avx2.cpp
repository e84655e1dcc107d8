// AVX2 with FMA and F16C: Intel from Haswell (2013), AMD from Excavator (2015). Vectors of 8 floats.
#define EDGEKILN_ISA avx2

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::avx2 {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx2(); },
    .kernels =
        {
            .instruction_set = "avx2",
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
            .two_pass_lm_head = two_pass_lm_head,
        },
};

}  // namespace edgekiln::avx2
