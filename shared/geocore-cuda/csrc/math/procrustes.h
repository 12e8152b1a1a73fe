// The rotation nearest to a 3 x 3 matrix, and its gradient, from a one-sided Jacobi SVD.
//
// Matrices are row by row. Everything runs in double: the rotation depends on the matrix with the condition s1 / (s2 + s3), which
// would cost float its accuracy where that is large.
#pragma once

#include "math/jacobi.h"

namespace geo {
inline namespace GEO_ISA {

template <class S>
GEO_FN S dot3(const S* x, const S* y) { return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]; }

template <class S>
GEO_FN void cross3(const S* x, const S* y, S* out) {
  out[0] = x[1] * y[2] - x[2] * y[1];
  out[1] = x[2] * y[0] - x[0] * y[2];
  out[2] = x[0] * y[1] - x[1] * y[0];
}

template <class S>
GEO_FN void normalise3(S* x) {
  const S square = dot3(x, x), one = constant<S>(1), shrink = one / root(pick(square > S{}, square, one));
  for (int i = 0; i < 3; ++i) x[i] = x[i] * shrink;
}

// M = U diag(s) V^T with columns u[3 k ..], v[3 k ..] and s descending; det V = 1 and det U = 1, so the last of s carries the sign of
// det M. Scaled so that the largest entry is near one; `back` undoes that in s. U is a rotation at any rank.
template <class S>
struct Svd3 {
  S u[9], s[3], v[9], back;
};

// One rotation of columns P and Q, which makes them orthogonal; whether they were not yet. Rounding alone leaves cosines of 2 eps.
template <int P, int Q, class S, class M>
GEO_FN M orthogonalise(S* w, S* v, M working) {
  S *x = w + 3 * P, *y = w + 3 * Q;
  const S xx = dot3(x, x), yy = dot3(y, y), xy = dot3(x, y);
  const M active = (xy * xy > constant<S>(16 * EPSILON<S> * EPSILON<S>) * xx * yy) & working;
  const Rotation<S> r = diagonalising(xx, yy, xy, active);
  for (int i = 0; i < 3; ++i) {
    rotate(x[i], y[i], r);
    rotate(v[3 * P + i], v[3 * Q + i], r);
  }
  return active;
}

// Swap columns p and q where `mask`, and negate one: the determinant stays.
template <int P, int Q, class S, class M>
GEO_FN void swap_signed(S* x, M mask) {
  for (int i = 0; i < 3; ++i) {
    const S a = x[3 * P + i], b = x[3 * Q + i];
    x[3 * P + i] = pick(mask, b, a);
    x[3 * Q + i] = pick(mask, -a, b);
  }
}

template <int P, int Q, class S>
GEO_FN void order(S* square, S* w, S* v) {
  const S a = square[P], b = square[Q];
  const auto swap = a < b;
  square[P] = pick(swap, b, a);
  square[Q] = pick(swap, a, b);
  swap_signed<P, Q>(w, swap);
  swap_signed<P, Q>(v, swap);
}

template <class S>
GEO_FN Svd3<S> svd3(const S* M) {
  const S zero = S{}, one = constant<S>(1);
  Svd3<S> out;
  S most = zero, poison = zero;
  for (int k = 0; k < 9; ++k) {
    most = pick(magnitude(M[k]) > most, magnitude(M[k]), most);
    poison = poison + M[k] * zero;
  }
  const Scale<S> scale = safe_scale(most);
  out.back = scale.back;
  S w[9];
  for (int c = 0; c < 3; ++c)
    for (int r = 0; r < 3; ++r) {
      w[3 * c + r] = M[3 * r + c] * scale.by + poison;
      out.v[3 * c + r] = (c == r ? one : zero) + poison;
    }
  auto working = most == most;
  for (int k = 0; k < MOST_SWEEPS && any(working); ++k) {
    auto some = orthogonalise<0, 1>(w, out.v, working);
    some |= orthogonalise<0, 2>(w, out.v, working);
    some |= orthogonalise<1, 2>(w, out.v, working);
    working = some;
  }
  S square[3] = {dot3(w, w), dot3(w + 3, w + 3), dot3(w + 6, w + 6)};
  order<0, 1>(square, w, out.v);
  order<0, 2>(square, w, out.v);
  order<1, 2>(square, w, out.v);
  // u1 along the longest column, or e1 for the zero matrix.
  const auto some = square[0] > zero;
  const S first = root(square[0]), inverse = one / pick(some, first, one);
  S *u = out.u, *x = u, *y = u + 3, *z = u + 6;
  for (int i = 0; i < 3; ++i) x[i] = pick(some, w[i] * inverse, i == 0 ? one + poison : zero + poison);
  // u2 along the second; where that is zero, whichever of e2, e3 (or e1) is furthest from u1, made orthogonal.
  const S ax = magnitude(x[0]), ay = magnitude(x[1]), az = magnitude(x[2]);
  const auto second = (ay <= ax) & (ay <= az);
  const auto third = (az < ay) & (az <= ax);
  const S spare[3] = {pick(second | third, zero, one), pick(second, one, zero), pick(third, one, zero)};
  const auto plane = square[1] > constant<S>(1e-60) * square[0];
  for (int i = 0; i < 3; ++i) y[i] = pick(plane, w[3 + i], spare[i]);
  normalise3(y);
  const S along = dot3(x, y);
  for (int i = 0; i < 3; ++i) y[i] = y[i] - along * x[i];
  normalise3(y);
  cross3(x, y, z);
  out.s[0] = first;
  out.s[1] = root(square[1]);
  out.s[2] = dot3(z, w + 6);
  return out;
}

// R = U V^T and the singular values, the last with the sign of the determinant.
template <class S>
GEO_FN void procrustes3(const S* M, S* R, S* s) {
  const Svd3<S> f = svd3(M);
  S q[9];
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 3; ++c) q[3 * r + c] = f.u[r] * f.v[c] + f.u[3 + r] * f.v[3 + c] + f.u[6 + r] * f.v[6 + c];
    s[r] = f.s[r] * f.back;
  }
  // V drifts from orthogonality by an eps or two in each sweep; one step R + R (I - R^T R) / 2 takes that back.
  S e[9];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      e[3 * i + j] = constant<S>(0.5) * (constant<S>(i == j ? 1 : 0) - q[i] * q[j] - q[3 + i] * q[3 + j] - q[6 + i] * q[6 + j]);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) R[3 * r + c] = q[3 * r + c] + (q[3 * r] * e[c] + q[3 * r + 1] * e[3 + c] + q[3 * r + 2] * e[6 + c]);
}

// The factors row by row, singular values not negative: M = U diag(s) Vh.
template <class S>
GEO_FN void factors3(const S* M, S* U, S* s, S* Vh) {
  const Svd3<S> f = svd3(M);
  const auto negative = f.s[2] < S{};
  for (int c = 0; c < 3; ++c)
    for (int r = 0; r < 3; ++r) {
      const S u = f.u[3 * c + r];
      U[3 * r + c] = c == 2 ? pick(negative, -u, u) : u;
      Vh[3 * c + r] = f.v[3 * c + r];
    }
  for (int c = 0; c < 3; ++c) s[c] = (c == 2 ? magnitude(f.s[2]) : f.s[c]) * f.back;
}

// Gradient of R with respect to M applied to g: U ((B - B^T) o 1 / (s_i + s_j)) V^T with B = U^T g V. Sums that vanish relative to
// `floor` times the largest give 0: there the rotation is not unique.
template <class S>
GEO_FN void procrustes3_backward(const S* M, const S* g, double floor, S* out) {
  const Svd3<S> f = svd3(M);
  const S zero = S{}, one = constant<S>(1);
  const S inverse = one / pick(f.s[0] > zero, f.s[0], one);
  const auto entry = [&](int i, int j) {  // u_i . g v_j
    S total = zero;
    for (int r = 0; r < 3; ++r) total = total + f.u[3 * i + r] * (g[3 * r] * f.v[3 * j] + g[3 * r + 1] * f.v[3 * j + 1] + g[3 * r + 2] * f.v[3 * j + 2]);
    return total;
  };
  const auto skew = [&](int i, int j) {
    const S sum = (f.s[i] + f.s[j]) * inverse;
    // The scale goes back as two factors: the inverse alone may overflow where the gradient does not.
    return (entry(i, j) - entry(j, i)) * (sum / (sum * sum + constant<S>(floor * floor))) * inverse * (one / f.back);
  };
  const S x = skew(0, 1), y = skew(0, 2), z = skew(1, 2);
  for (int r = 0; r < 3; ++r) {
    const S a = -f.u[3 + r] * x - f.u[6 + r] * y, b = f.u[r] * x - f.u[6 + r] * z, c = f.u[r] * y + f.u[3 + r] * z;
    for (int k = 0; k < 3; ++k) out[3 * r + k] = a * f.v[k] + b * f.v[3 + k] + c * f.v[6 + k];
  }
}

}  // namespace GEO_ISA
}  // namespace geo
