// Many rows times 4-bit weights in panels.
#pragma once

#include "kernels/packed_nbits.h"

namespace edgekiln::EDGEKILN_ISA {

// As CodePanelsKernel; panels of 4 bits, at least kPromptRows rows.
void multiply_prompt(const CodePanels& panels, const float* a, std::size_t rows, float* out, const Parallel& parallel,
                     Scratch& scratch);

}  // namespace edgekiln::EDGEKILN_ISA
