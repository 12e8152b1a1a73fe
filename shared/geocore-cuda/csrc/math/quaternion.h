// Conversions and product of quaternions w, x, y, z; the references are in geocore.so3.
#pragma once

#include "math/so3.h"

namespace geo {
inline namespace GEO_ISA {

// Below this squared length a quaternion has no direction: sixteen times the smallest normal number.
template <class S>
GEO_FN S no_direction() { return constant<S>(16.0 * std::numeric_limits<scalar_t<S>>::min()); }

// R = I + 2/|q|^2 (w V + V^2).
template <class S>
GEO_FN void quat_to_matrix(const S q[4], S R[9]) {
  const S w = q[0], x = q[1], y = q[2], z = q[3], one = constant<S>(1);
  const S n2 = w * w + x * x + y * y + z * z;
  const S s = constant<S>(2) / pick(n2 <= no_direction<S>(), one, n2);
  const S sw = s * w, sx = s * x, sy = s * y, sz = s * z;
  R[0] = one - (sy * y + sz * z), R[1] = sx * y - sw * z, R[2] = sx * z + sw * y;
  R[3] = sx * y + sw * z, R[4] = one - (sx * x + sz * z), R[5] = sy * z - sw * x;
  R[6] = sx * z - sw * y, R[7] = sy * z + sw * x, R[8] = one - (sx * x + sy * y);
}

template <class S>
GEO_FN void quat_to_matrix_backward(const S q[4], const S G[9], S out[4]) {
  const S w = q[0], x = q[1], y = q[2], z = q[3], one = constant<S>(1), two = constant<S>(2);
  const S n2 = w * w + x * x + y * y + z * z;
  const auto lost = n2 <= no_direction<S>();
  const S s = two / pick(lost, one, n2);
  const S p = G[7] - G[5], r = G[2] - G[6], t = G[3] - G[1];  // the skew part meets w V
  const S d = G[1] + G[3], e = G[2] + G[6], f = G[5] + G[7];
  const S gw = p * x + r * y + t * z;
  const S gx = p * w + d * y + e * z - two * x * (G[4] + G[8]);
  const S gy = r * w + d * x + f * z - two * y * (G[0] + G[8]);
  const S gz = t * w + e * x + f * y - two * z * (G[0] + G[4]);
  // E = w V + V^2 is homogeneous of degree two, so <G, E> is half of <gradient, q>; 2/|q|^2 turns that into a projection
  const S radial = pick(lost, constant<S>(0), (gw * w + gx * x + gy * y + gz * z) / pick(lost, one, n2));
  out[0] = s * (gw - radial * w), out[1] = s * (gx - radial * x), out[2] = s * (gy - radial * y), out[3] = s * (gz - radial * z);
}

template <class S>
GEO_FN void matrix_to_quat(const S R[9], S out[4]) {
  S q[4], by[4], sign;
  quaternion_row(R, q, by, sign);
  const S scale = sign / root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  for (int k = 0; k < 4; ++k) out[k] = q[k] * scale;
}

template <class S>
GEO_FN void matrix_to_quat_backward(const S R[9], const S g[4], S out[9]) {
  S q[4], by[4], sign, h[4];
  quaternion_row(R, q, by, sign);
  const S n2 = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
  const S scale = sign / root(n2), along = (g[0] * q[0] + g[1] * q[1] + g[2] * q[2] + g[3] * q[3]) / n2;
  for (int k = 0; k < 4; ++k) h[k] = scale * (g[k] - along * q[k]);
  quaternion_row_backward(by, h, out);
}

// Hamilton product.
template <class S>
GEO_FN void quat_mul(const S a[4], const S b[4], S out[4]) {
  out[0] = a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3];
  out[1] = a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2];
  out[2] = a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1];
  out[3] = a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0];
}

}  // namespace GEO_ISA
}  // namespace geo
