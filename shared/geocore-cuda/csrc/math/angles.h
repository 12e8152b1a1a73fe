// Sine and cosine of one angle or of one per lane.
#pragma once

#include "number.h"

namespace geo {
inline namespace GEO_ISA {

#if !defined(__CUDACC__)
GEO_FN float sine(float x) { return __builtin_sinf(x); }
GEO_FN double sine(double x) { return __builtin_sin(x); }
GEO_FN float cosine(float x) { return __builtin_cosf(x); }
GEO_FN double cosine(double x) { return __builtin_cos(x); }
#endif

// Both at once, to an ulp or two; NaN for an angle that is not finite.
GEO_FN void sine_cosine(float x, float& s, float& c) {
#if defined(__CUDACC__)
  sincosf(x, &s, &c);
#else
  s = sine(x), c = cosine(x);
#endif
}
GEO_FN void sine_cosine(double x, double& s, double& c) {
#if defined(__CUDACC__)
  sincos(x, &s, &c);
#else
  s = sine(x), c = cosine(x);
#endif
}

#if !defined(__CUDACC__)
// The nearest multiple k of pi / 2 is taken off in four parts (Cody and Waite): k times each of the first three is exact for the k
// allowed here, so nothing is lost however close to a multiple the angle lies. Polynomials in r^2 interpolate sin(r) / r and
// cos(r) on |r| <= pi / 4 at Chebyshev nodes: 1.2e-8 and 1.2e-17 off at worst. Angles beyond the range go to the C library.
template <class S>
GEO_FN void sine_cosine(S x, S& s, S& c) {
  constexpr bool small = sizeof(scalar_t<S>) == 4;
  const auto part = [](double in_float, double in_double) { return constant<S>(small ? in_float : in_double); };
  const S shift = part(0x1.8p23, 0x1.8p52);  // the sum keeps the nearest whole number, in its last bits
  const S shifted = x * constant<S>(0.63661977236758134308) + shift;
  const S k = shifted - shift;
  S r = x - k * part(0x1.92p+0, 0x1.921fb544p+0);
  r = r - k * part(0x1.fb4p-12, 0x1.0b4611a6p-34);
  r = r - k * part(0x1.444p-24, 0x1.3198a2ep-69);
  r = r - k * part(0x1.68c234c4c6629p-39, 0x1.b839a252049c1p-104);
  const S z = r * r;
  S p, q;
  if constexpr (small) {
    p = constant<S>(-0.16666664659314785) + z * (constant<S>(0.008332747687791041) + z * constant<S>(-0.00019587764989177686));
    q = constant<S>(0.041666664656496995) + z * (constant<S>(-0.0013888302451873107) + z * constant<S>(2.4547815928434131e-5));
  } else {
    p = constant<S>(-2.5051130870968296e-8) + z * constant<S>(1.591805913698281e-10);
    p = constant<S>(-0.0001984126983674956) + z * (constant<S>(2.755731609787775e-6) + z * p);
    p = constant<S>(-0.16666666666666665) + z * (constant<S>(0.0083333333333309425) + z * p);
    q = constant<S>(2.0876145659059343e-9) + z * constant<S>(-1.1382588535352521e-11);
    q = constant<S>(2.4801587298760049e-5) + z * (constant<S>(-2.7557317268805393e-7) + z * q);
    q = constant<S>(0.041666666666666665) + z * (constant<S>(-0.0013888888888887394) + z * q);
  }
  const S in = r + r * (z * p);
  const S half = constant<S>(0.5) * z, rest = constant<S>(1) - half;
  const S out = rest + ((constant<S>(1) - rest - half) + z * (z * q));
  using M = decltype(x < x);
  const M quadrant = (M)shifted;  // the bits
  const M odd = (quadrant & 1) != 0;
  s = pick(odd, out, in);
  c = pick(odd, in, out);
  s = pick((quadrant & 2) != 0, -s, s);
  c = pick(((quadrant + 1) & 2) != 0, -c, c);
  const M far = magnitude(x) > part(1e4, 1e6);
  if (any(far)) {
    for (int j = 0; j < Traits<S>::width; ++j)
      if (far[j]) s[j] = sine(x[j]), c[j] = cosine(x[j]);
  }
}
#endif

}  // namespace GEO_ISA
}  // namespace geo
