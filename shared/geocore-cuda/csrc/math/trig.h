// Polynomials and the arctangent of lanes, within 2 ulp.
#pragma once

#include "math/angles.h"

namespace geo {
inline namespace GEO_ISA {

template <class S>
GEO_FN S polynomial(S x, const double* ascending, int n) {
  S p = constant<S>(ascending[n - 1]);
  for (int i = n - 2; i >= 0; --i) p = p * x + constant<S>(ascending[i]);
  return p;
}

// atan(q) / q for 0 <= q <= tan(pi/8).
template <class S>
GEO_FN S arctangent_ratio(S q) {
  constexpr bool wide = sizeof(scalar_t<S>) == 8;
  const int terms = wide ? 21 : 9;
  const S q2 = q * q;
  S p = constant<S>((terms % 2 ? 1.0 : -1.0) / (2 * terms - 1));
  for (int i = terms - 2; i >= 0; --i) p = p * q2 + constant<S>((i % 2 ? -1.0 : 1.0) / (2 * i + 1));
  return p;
}

// atan(q) for 0 <= q <= 1.
template <class S>
GEO_FN S arctangent(S q) {
  const auto high = q > constant<S>(0.41421356237309503);
  const S r = pick(high, (q - constant<S>(1)) / (q + constant<S>(1)), q);
  return pick(high, constant<S>(0.78539816339744831), constant<S>(0)) + r * arctangent_ratio(r);
}

}  // namespace GEO_ISA
}  // namespace geo
