// What a record of code panels says besides its codes.
#pragma once

#include <type_traits>

#include "kernels/packed_nbits.h"
#include "kernels/scales.h"

#if defined(__AVX512VNNI__)

namespace edgekiln::EDGEKILN_ISA {

// Of 16 columns: a weight is scale * (code - middle) + zero, with zero points scale * code + zero. That of code 0 is
// `first`, which panels with a shift have no use for.
template <bool Half_>
struct Numbers {
  Floats scale, zero{}, first;

  Numbers(const CodePanels& panels, const std::uint8_t* record) {
    using Number = std::conditional_t<Half_, Half, float>;
    const auto* numbers = reinterpret_cast<const Number*>(record + panels.codes_bytes());
    const auto middle = static_cast<float>(1 << (panels.bits - 1));
    scale = load(numbers);
    if (panels.zero == Zero::kZeroPoints) {
      const auto* points = reinterpret_cast<const __m128i*>(numbers + kPanelWidth);
      const Floats codes = reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(points))));
      zero = scale * (panels.shift - codes * panels.point);
      first = zero;
    } else if (panels.zero == Zero::kOffsets) {
      const Floats stored = load(numbers + kPanelWidth);
      zero = Half_ ? stored + scale * middle : stored;
      first = Half_ ? stored : stored - scale * middle;
    } else {
      zero = scale * panels.shift;
      first = -scale * middle;
    }
  }
};

}  // namespace edgekiln::EDGEKILN_ISA

#endif
