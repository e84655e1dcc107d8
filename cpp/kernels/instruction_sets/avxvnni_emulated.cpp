// The AVX-VNNI kernels on AVX-512 processors without AVX-VNNI, for tests: avx2/avx_vnni.h takes the same instructions
// of AVX512-VNNI.
#define EDGEKILN_ISA avxvnni_emulated

#include "kernels/instruction_sets/cpu.h"
#include "kernels/instruction_sets/instruction_set.h"
#include "kernels/isa_kernels.h"

namespace edgekiln::avxvnni_emulated {

extern const InstructionSet instruction_set{
    .supported = [] { return cpu::has_avx512_vnni(); },
    .kernels =
        {
            .instruction_set = "avxvnni_emulated",
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

}  // namespace edgekiln::avxvnni_emulated
