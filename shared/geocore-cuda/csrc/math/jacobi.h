// Eigenvalues and eigenvectors of symmetric matrices by Jacobi rotations.
//
// Only the lower triangle is kept, packed row by row: entry (i, j) with i >= j lies at i (i + 1) / 2 + j. Eigenvectors are
// columns: entry r of vector p lies at p n + r. A matrix that has converged is left alone while others in its lanes go on, so a
// result never depends on its neighbours.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

// Cyclic sweeps converge quadratically, in 4 to 10; the bound only serves matrices that are not finite.
constexpr int MOST_SWEEPS = 24;

// A variable, which device code may read, where a constexpr function of the host may not be called.
template <class S>
constexpr double EPSILON = sizeof(scalar_t<S>) == 4 ? 0x1p-23 : 0x1p-52;

GEO_FN constexpr int lower(int i, int j) { return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i; }

// A power of two that brings numbers up to `most` to a size whose squares neither overflow nor vanish, and its inverse. Powers of
// two, and one where nothing is needed, so that scaling never rounds.
template <class S>
struct Scale {
  S by, back;
};
template <class S>
GEO_FN Scale<S> safe_scale(S most) {
  constexpr bool small = sizeof(scalar_t<S>) == 4;
  const auto choose = [&](double low, double up, double high, double down, Scale<S> otherwise) {
    return Scale<S>{pick(most < constant<S>(low), constant<S>(up), pick(most > constant<S>(high), constant<S>(down), otherwise.by)),
                    pick(most < constant<S>(low), constant<S>(1 / up), pick(most > constant<S>(high), constant<S>(1 / down), otherwise.back))};
  };
  const Scale<S> one{constant<S>(1), constant<S>(1)};
  if constexpr (small) return choose(0x1p-80, 0x1p120, 0x1p80, 0x1p-100, choose(0x1p-30, 0x1p60, 0x1p30, 0x1p-50, one));
  return choose(0x1p-600, 0x1p900, 0x1p600, 0x1p-800, choose(0x1p-250, 0x1p450, 0x1p250, 0x1p-400, one));
}

template <class S>
struct Rotation {
  S t, c, s;
};

// The smaller angle that makes [[p, off], [off, q]] diagonal; the identity where `active` is not set.
template <class S, class M>
GEO_FN Rotation<S> diagonalising(S p, S q, S off, M active) {
  const S zero = S{}, one = constant<S>(1), twice = off + off, difference = q - p;
  const S reach = magnitude(difference) + root(difference * difference + twice * twice);
  S t = twice / pick(reach > zero, reach, one);
  t = pick(difference < zero, -t, t);
  t = pick(active, t, zero);
  const S c = one / root(one + t * t);
  return {t, c, t * c};
}

template <class S>
GEO_FN void rotate(S& x, S& y, const Rotation<S>& r) {
  const S u = x;
  x = r.c * u - r.s * y;
  y = r.s * u + r.c * y;
}

// --- size known at compile time: everything unrolled, in registers ---------------------------------------------------------
template <int N, int P, int Q, int R = 0, class S>
GEO_FN void rotate_rest(S* a, S* v, const Rotation<S>& r) {
  if constexpr (R < N) {
    if constexpr (R != P && R != Q) rotate(a[lower(R, P)], a[lower(R, Q)], r);
    rotate(v[P * N + R], v[Q * N + R], r);
    rotate_rest<N, P, Q, R + 1>(a, v, r);
  }
}

template <int N, int P = 0, int Q = 1, class S, class M>
GEO_FN void sweep(S* a, S* v, M active) {
  if constexpr (P < N - 1) {
    S &p = a[lower(P, P)], &q = a[lower(Q, Q)], &off = a[lower(P, Q)];
    const Rotation<S> r = diagonalising(p, q, off, active);
    p = p - r.t * off;
    q = q + r.t * off;
    off = pick(active, S{}, off);
    rotate_rest<N, P, Q>(a, v, r);
    if constexpr (Q + 1 < N)
      sweep<N, P, Q + 1>(a, v, active);
    else
      sweep<N, P + 1, P + 2>(a, v, active);
  }
}

// Bubble sort of values with their vectors: place P against P + 1, up to the already sorted ones from End.
template <int N, int R = 0, class S, class M>
GEO_FN void swap_columns(S* v, int p, M swap) {
  if constexpr (R < N) {
    const S x = v[p * N + R], y = v[(p + 1) * N + R];
    v[p * N + R] = pick(swap, y, x);
    v[(p + 1) * N + R] = pick(swap, x, y);
    swap_columns<N, R + 1>(v, p, swap);
  }
}
template <int N, int End = N - 1, int P = 0, class S>
GEO_FN void sort_columns(S* values, S* v) {
  if constexpr (End > 0) {
    if constexpr (P < End) {
      const S x = values[P], y = values[P + 1];
      const auto swap = x > y;
      values[P] = pick(swap, y, x);
      values[P + 1] = pick(swap, x, y);
      swap_columns<N>(v, P, swap);
      sort_columns<N, End, P + 1>(values, v);
    } else {
      sort_columns<N, End - 1, 0>(values, v);
    }
  }
}

// --- any size --------------------------------------------------------------------------------------------------------------
template <class S>
GEO_FN void rotate_entries(S* x, S* y, int from, int to, const Rotation<S>& r) {
  for (int i = from; i < to; ++i) rotate(x[i], y[i], r);
}

template <class S, class M>
GEO_FN void sweep(S* a, S* v, int n, M active) {
  for (int p = 0; p < n - 1; ++p) {
    for (int q = p + 1; q < n; ++q) {
      S &up = a[lower(p, p)], &low = a[lower(q, q)], &off = a[lower(q, p)];
      const Rotation<S> r = diagonalising(up, low, off, active);
      up = up - r.t * off;
      low = low + r.t * off;
      off = pick(active, S{}, off);
      rotate_entries(a + lower(p, 0), a + lower(q, 0), 0, p, r);
      for (int i = p + 1; i < q; ++i) rotate(a[lower(i, p)], a[lower(q, i)], r);
      for (int i = q + 1; i < n; ++i) rotate(a[lower(i, p)], a[lower(i, q)], r);
      rotate_entries(v + p * n, v + q * n, 0, n, r);
    }
  }
}

// --- both ------------------------------------------------------------------------------------------------------------------
// Diagonalise the packed lower triangle `a`: eigenvalues into `values`, ascending for N > 0 and in no order for N = 0 (then the
// size is n), vectors into `v`. Not finite in any entry gives NaN in every result.
template <int N, class S>
GEO_FN void symmetric_eigen(S* a, S* values, S* v, int n) {
  if constexpr (N > 0) n = N;
  const int entries = n * (n + 1) / 2;
  const S zero = S{}, one = constant<S>(1);
  S most = zero, poison = zero;
  for (int k = 0; k < entries; ++k) {
    most = pick(magnitude(a[k]) > most, magnitude(a[k]), most);
    poison = poison + a[k] * zero;
  }
  const Scale<S> scale = safe_scale(most);
  S total = zero;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      S& x = a[lower(i, j)];
      x = x * scale.by;
      total = total + (i == j ? x * x : constant<S>(2) * x * x);
      v[i * n + j] = v[j * n + i] = i == j ? one : zero;
    }
  }
  constexpr double tol = EPSILON<S> / 4;
  const S enough = constant<S>(tol * tol / 2) * total;
  for (int k = 0; k < MOST_SWEEPS; ++k) {
    S off = zero;
    for (int i = 1; i < n; ++i)
      for (int j = 0; j < i; ++j) off = off + a[lower(i, j)] * a[lower(i, j)];
    const auto active = off > enough;
    if (!any(active)) break;
    if constexpr (N > 0)
      sweep<N>(a, v, active);
    else
      sweep(a, v, n, active);
  }
  for (int i = 0; i < n; ++i) values[i] = a[lower(i, i)] * scale.back + poison;
  for (int k = 0; k < n * n; ++k) v[k] = v[k] + poison;
  if constexpr (N > 0) sort_columns<N>(values, v);
}

}  // namespace GEO_ISA
}  // namespace geo
