// Exponential and logarithm of SO(3); the references are geocore.so3.exp and log.
#pragma once

#include "math/trig.h"

namespace geo {
inline namespace GEO_ISA {

// R = I + sin(t)/t W + (1 - cos t)/t^2 W^2 through the half angle, where neither coefficient cancels.
template <class S>
GEO_FN void so3_exp(const S w[3], S R[9]) {
  const S x = w[0], y = w[1], z = w[2];
  const S xx = x * x, yy = y * y, zz = z * z;
  const S h = root(xx + yy + zz) * constant<S>(0.5);
  S s, c;
  sine_cosine(h, s, c);
  const S ratio = pick(h > constant<S>(0), s / h, constant<S>(1) + h);  // the sum passes NaN on
  const S a = ratio * c, b = constant<S>(0.5) * ratio * ratio, one = constant<S>(1);
  const S bx = b * x, by = b * y;
  R[0] = one - b * (yy + zz), R[1] = bx * y - a * z, R[2] = bx * z + a * y;
  R[3] = bx * y + a * z, R[4] = one - b * (xx + zz), R[5] = by * z - a * x;
  R[6] = bx * z - a * y, R[7] = by * z + a * x, R[8] = one - b * (xx + yy);
}

// The row of 4 q q^T whose diagonal entry is at least 1, which row it was (as 0/1 factors), and its canonical sign.
template <class S>
GEO_FN void quaternion_row(const S R[9], S q[4], S by[4], S& sign) {
  const S zero = constant<S>(0), one = constant<S>(1);
  const auto below = R[8] < zero, first = R[0] > R[4], last = R[0] < -R[4];
  by[1] = pick(below, pick(first, one, zero), zero), by[2] = pick(below, pick(first, zero, one), zero);
  by[3] = pick(below, zero, pick(last, one, zero)), by[0] = one - by[1] - by[2] - by[3];
  const S p = R[7] - R[5], m = R[2] - R[6], r = R[3] - R[1];
  const S d = R[1] + R[3], e = R[2] + R[6], f = R[5] + R[7];
  const S t = one + (by[0] + by[1] - by[2] - by[3]) * R[0] + (by[0] - by[1] + by[2] - by[3]) * R[4] + (by[0] - by[1] - by[2] + by[3]) * R[8];
  q[0] = pick(below, pick(first, p, m), pick(last, r, t));
  q[1] = pick(below, pick(first, t, d), pick(last, e, p));
  q[2] = pick(below, pick(first, d, t), pick(last, f, m));
  q[3] = pick(below, pick(first, e, f), pick(last, t, r));
  const S leading = pick(q[0] != zero, q[0], pick(q[1] != zero, q[1], pick(q[2] != zero, q[2], q[3])));
  sign = pick(leading < zero, -one, one);
}

// Gradient in the nine entries for the gradient g in the row.
template <class S>
GEO_FN void quaternion_row_backward(const S by[4], const S g[4], S out[9]) {
  const S gt = by[0] * g[0] + by[1] * g[1] + by[2] * g[2] + by[3] * g[3];
  const S gp = by[1] * g[0] + by[0] * g[1], gm = by[2] * g[0] + by[0] * g[2], gr = by[3] * g[0] + by[0] * g[3];
  const S gd = by[1] * g[2] + by[2] * g[1], ge = by[1] * g[3] + by[3] * g[1], gf = by[2] * g[3] + by[3] * g[2];
  out[0] = (by[0] + by[1] - by[2] - by[3]) * gt, out[4] = (by[0] - by[1] + by[2] - by[3]) * gt, out[8] = (by[0] - by[1] - by[2] + by[3]) * gt;
  out[1] = gd - gr, out[3] = gd + gr, out[2] = ge + gm, out[6] = ge - gm, out[5] = gf - gp, out[7] = gf + gp;
}

// 2 atan2(|v|, w) v / |v| of the quaternion (w, v) that is the row of 4 q q^T whose diagonal entry is at least 1.
template <class S>
GEO_FN void so3_log(const S R[9], S out[3]) {
  const S zero = constant<S>(0), one = constant<S>(1);
  S v[4], by[4], sign;
  quaternion_row(R, v, by, sign);
  const S w = v[0] * sign, x = v[1] * sign, y = v[2] * sign, z = v[3] * sign;
  const S n = root(x * x + y * y + z * z);
  const auto near = n <= constant<S>(0.41421356237309503) * w;
  const auto low = n <= w;
  const S ratio = pick(low, n / pick(low, w, one), w / pick(low, one, n));
  const S angle = pick(low, arctangent(ratio), constant<S>(1.5707963267948966) - arctangent(ratio));
  const S scale = constant<S>(2) * pick(near, arctangent_ratio(ratio) / w, angle / pick(n > zero, n, one));
  out[0] = scale * x, out[1] = scale * y, out[2] = scale * z;
}

// Gradient in w for the gradient G in R: J_l(w)^T vee(G R^T), where vee takes the skew part.
template <class S>
GEO_FN void so3_exp_backward(const S w[3], const S G[9], S out[3]) {
  constexpr bool wide = sizeof(scalar_t<S>) == 8;
  constexpr double series[] = {1.0 / 6, -1.0 / 120, 1.0 / 5040, -1.0 / 362880, 1.0 / 39916800, -1.0 / 6227020800.0};
  S R[9];
  so3_exp(w, R);
  const S t2 = w[0] * w[0] + w[1] * w[1] + w[2] * w[2];
  const S h = root(t2) * constant<S>(0.5);
  S s, c;
  sine_cosine(h, s, c);
  const S one = constant<S>(1), ratio = pick(h > constant<S>(0), s / h, one + h);
  const S b = constant<S>(0.5) * ratio * ratio;
  const auto small = t2 < constant<S>(wide ? 1.0 / 16 : 1.0 / 4);
  const S cube = pick(small, polynomial(t2, series, wide ? 6 : 4), (one - ratio * c) / pick(small, one, t2));
  S v[3], u[3], e[3];
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;  // (G R^T)_kj - (G R^T)_jk
    v[i] = (G[3 * k] * R[3 * j] + G[3 * k + 1] * R[3 * j + 1] + G[3 * k + 2] * R[3 * j + 2]) -
           (G[3 * j] * R[3 * k] + G[3 * j + 1] * R[3 * k + 1] + G[3 * j + 2] * R[3 * k + 2]);
  }
  for (int i = 0; i < 3; ++i) u[i] = w[(i + 1) % 3] * v[(i + 2) % 3] - w[(i + 2) % 3] * v[(i + 1) % 3];
  for (int i = 0; i < 3; ++i) e[i] = w[(i + 1) % 3] * u[(i + 2) % 3] - w[(i + 2) % 3] * u[(i + 1) % 3];
  for (int i = 0; i < 3; ++i) out[i] = v[i] - b * u[i] + cube * e[i];
}

// Gradient of so3_log in the nine entries of R.
template <class S>
GEO_FN void so3_log_backward(const S R[9], const S g[3], S out[9]) {
  constexpr bool wide = sizeof(scalar_t<S>) == 8;
  const S zero = constant<S>(0), one = constant<S>(1), two = constant<S>(2);
  S v[4], by[4], sign;
  quaternion_row(R, v, by, sign);
  const S w = v[0] * sign, x = v[1] * sign, y = v[2] * sign, z = v[3] * sign;
  const S n2 = x * x + y * y + z * z, n = root(n2), all = n2 + w * w;
  const auto near = n <= constant<S>(0.41421356237309503) * w, low = n <= w;
  const S ratio = pick(low, n / pick(low, w, one), w / pick(low, one, n));
  const S angle = pick(low, arctangent(ratio), constant<S>(1.5707963267948966) - arctangent(ratio));
  const S safe_w = pick(near, w, one), safe_n = pick(near, one, n);
  const S scale = two * pick(near, arctangent_ratio(ratio) / safe_w, angle / safe_n);
  // derivative of the scale in n^2: a series near the identity, where the closed form cancels
  const int terms = wide ? 22 : 10;
  const S rho = pick(near, ratio * ratio, zero);
  S slope = zero;
  for (int k = terms; k >= 1; --k) slope = slope * rho + constant<S>((k % 2 ? -1.0 : 1.0) * k / (2 * k + 1));
  const S by_n2 = pick(near, two * slope / (safe_w * safe_w * safe_w), (two * w / all - scale) / (two * safe_n * safe_n));
  const S along = g[0] * x + g[1] * y + g[2] * z;
  const S more = two * by_n2 * along;
  const S h[4] = {sign * (-two / all) * along, sign * (scale * g[0] + more * x), sign * (scale * g[1] + more * y), sign * (scale * g[2] + more * z)};
  quaternion_row_backward(by, h, out);
}

}  // namespace GEO_ISA
}  // namespace geo
