// Angle between two rotations; the reference is geocore.so3.geodesic.
#pragma once

#include "math/trig.h"

namespace geo {
inline namespace GEO_ISA {

// M = A B^T of angle t: the skew part v of length 2 sin t, and 2 cos t.
template <class S>
GEO_FN void between(const S A[9], const S B[9], S v[3], S& sine, S& cosine) {
  const auto rows = [&](int i, int j) { return A[3 * i] * B[3 * j] + A[3 * i + 1] * B[3 * j + 1] + A[3 * i + 2] * B[3 * j + 2]; };
  v[0] = rows(2, 1) - rows(1, 2), v[1] = rows(0, 2) - rows(2, 0), v[2] = rows(1, 0) - rows(0, 1);
  const S square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
  sine = pick(square > constant<S>(16.0 * std::numeric_limits<scalar_t<S>>::min()), root(square), S{});
  cosine = rows(0, 0) + rows(1, 1) + rows(2, 2) - constant<S>(1);  // holds every entry, so it carries a NaN
}

template <class S>
GEO_FN void so3_geodesic(const S A[9], const S B[9], S out[1]) {
  S v[3], sine, cosine;
  between(A, B, v, sine, cosine);
  const S zero = S{}, size = magnitude(cosine);
  const auto steep = sine > size;
  const S low = pick(steep, size, sine), high = pick(steep, sine, size);
  const S part = arctangent(low / pick(high == zero, constant<S>(1), high));
  const S acute = pick(steep, constant<S>(1.5707963267948966) - part, part);
  out[0] = pick(cosine < zero, constant<S>(3.1415926535897931) - acute, acute);
}

// Gradient in A: (cosine / sine hat(v) - sine I) B / (sine^2 + cosine^2); that in B is the same with A and B exchanged.
template <class S>
GEO_FN void so3_geodesic_backward(const S A[9], const S B[9], const S g[1], S out[9]) {
  S v[3], sine, cosine;
  between(A, B, v, sine, cosine);
  const S zero = S{}, one = constant<S>(1), all = sine * sine + cosine * cosine;
  const S scale = g[0] / pick(all == zero, one, all), diagonal = scale * sine;
  const S turn = pick(sine > zero, scale * cosine / pick(sine > zero, sine, one), zero);
  for (int k = 0; k < 3; ++k) {
    const S x = B[k], y = B[3 + k], z = B[6 + k];
    out[k] = turn * (v[1] * z - v[2] * y) - diagonal * x;
    out[3 + k] = turn * (v[2] * x - v[0] * z) - diagonal * y;
    out[6 + k] = turn * (v[0] * y - v[1] * x) - diagonal * z;
  }
}

}  // namespace GEO_ISA
}  // namespace geo
