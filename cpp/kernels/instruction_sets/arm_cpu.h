// What an Arm processor has, as the operating system reports it.
#pragma once

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstddef>
#endif

namespace edgekiln::cpu {

#if defined(__linux__)

// SDOT and UDOT (FEAT_DotProd), bit HWCAP_ASIMDDP: Cortex-A55 and A75 and later, Neoverse N1 and later.
inline bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }

// SMMLA (FEAT_I8MM), bit HWCAP2_I8MM: Cortex-A510, A710 and X2 and later, Neoverse V1 and N2 and later.
inline bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }

#elif defined(__APPLE__)

inline bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}

inline bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }             // from A13 and M1
inline bool has_i8mm() { return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM"); }  // from A15 and M2

#else

inline bool has_dotprod() { return false; }
inline bool has_i8mm() { return false; }

#endif

}  // namespace edgekiln::cpu
