// Numbers of 16 bits in memory, computed with in float: integer operations that a compiler turns into vector code on any CPU.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

struct BFloat16 {
  uint16_t bits;
};

GEO_FN float widen(float x) { return x; }
GEO_FN double widen(double x) { return x; }
GEO_FN float widen(BFloat16 x) {
  const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &u, 4);
  return y;
}

// To nearest, ties to even.
GEO_FN void narrow(float x, float& to) { to = x; }
GEO_FN void narrow(double x, double& to) { to = x; }
GEO_FN void narrow(float x, BFloat16& to) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

}  // namespace GEO_ISA
}  // namespace geo
