// Jacobi's method for one symmetric matrix by a team: the threads of a warp with the matrix in shared memory, or (in tests) one
// thread that plays all of them. A team has one function, each(count, f): f(i) for all i < count, in any order, then a barrier.
//
// Rotations of disjoint pairs commute, so a round takes n / 2 of them at once; n - 1 rounds of a round-robin tournament meet every
// pair. A matrix of odd size gets a row of zeros, whose rotations are the identity.
#pragma once

#include "math/jacobi.h"

namespace geo {
inline namespace GEO_ISA {

GEO_FN constexpr int even(int n) { return n + n % 2; }
// Rows are one longer than needed, so that a column does not lie in one bank of shared memory.
GEO_FN constexpr int team_stride(int n) { return even(n) + 1; }
// Numbers of memory that team_eigen needs.
GEO_FN constexpr int team_memory(int n) { return 2 * even(n) * team_stride(n) + 3 * (even(n) / 2) + even(n); }

struct Pair {
  int p, q;
};
// Pair k of round r among m players, m even: one stays, the others go round.
GEO_FN Pair paired(int r, int k, int m) {
  const int x = (r + k) % (m - 1), y = k == 0 ? m - 1 : (r - k + m - 1) % (m - 1);
  return x > y ? Pair{y, x} : Pair{x, y};
}

// Reads the lower triangle of A (n x n, row by row); writes eigenvalues ascending and eigenvectors in columns.
template <class T, class Team>
GEO_FN void team_eigen(const Team& team, const T* A, int n, T* values, T* vectors, T* memory) {
  const int m = even(n), stride = team_stride(n), half = m / 2;
  T *a = memory, *v = a + m * stride, *t = v + m * stride, *c = t + half, *s = c + half, *row = s + half;
  const auto at = [=](int i, int j) -> T& { return i >= j ? a[i * stride + j] : a[j * stride + i]; };
  const auto sum = [=]() {
    T total = 0;
    for (int i = 0; i < m; ++i) total += row[i];
    return total;
  };

  team.each(m, [=](int i) {  // row[i]: largest entry, or NaN
    T most = 0, poison = 0;
    for (int j = 0; j < m; ++j) {
      const T x = i < n && j <= i ? A[i * n + j] : T(0);
      if (j <= i) a[i * stride + j] = x;
      v[i * stride + j] = i == j ? T(1) : T(0);
      most = magnitude(x) > most ? magnitude(x) : most;
      poison += x * T(0);
    }
    row[i] = most + poison;
  });
  T most = 0, poison = 0;
  for (int i = 0; i < m; ++i) {
    most = row[i] > most ? row[i] : most;
    poison += row[i] * T(0);
  }
  const Scale<T> scale = safe_scale(most);
  team.each(0, [](int) {});  // everyone has read
  team.each(m, [=](int i) {
    T total = 0;
    for (int j = 0; j <= i; ++j) {
      const T x = a[i * stride + j] *= scale.by;
      total += (i == j ? T(1) : T(2)) * x * x;
    }
    row[i] = total;
  });
  constexpr double tol = EPSILON<T> / 4;
  const T enough = static_cast<T>(tol * tol / 2) * sum();
  team.each(0, [](int) {});
  for (int k = 0; k < MOST_SWEEPS; ++k) {
    team.each(m, [=](int i) {
      T off = 0;
      for (int j = 0; j < i; ++j) off += a[i * stride + j] * a[i * stride + j];
      row[i] = off;
    });
    const T off = sum();
    if (!(off > enough)) break;
    for (int r = 0; r < m - 1; ++r) {
      team.each(half, [=](int k) {
        const Pair x = paired(r, k, m);
        const Rotation<T> turn = diagonalising(at(x.p, x.p), at(x.q, x.q), at(x.q, x.p), true);
        t[k] = turn.t, c[k] = turn.c, s[k] = turn.s;
      });
      // All blocks of two rows by two columns at once, and the columns of the vectors.
      const int blocks = half * (half + 1) / 2;
      team.each(blocks + half * m, [=](int item) {
        if (item >= blocks) {
          const int k = (item - blocks) / m, i = (item - blocks) % m;
          const Pair x = paired(r, k, m);
          rotate(v[i * stride + x.p], v[i * stride + x.q], Rotation<T>{t[k], c[k], s[k]});
          return;
        }
        int k = 0;
        while (item >= (k + 1) * (k + 2) / 2) ++k;
        const int l = item - k * (k + 1) / 2;
        const Pair x = paired(r, k, m), y = paired(r, l, m);
        if (k == l) {
          const T shift = t[k] * at(x.q, x.p);
          at(x.p, x.p) -= shift;
          at(x.q, x.q) += shift;
          at(x.q, x.p) = 0;
          return;
        }
        const Rotation<T> left{t[k], c[k], s[k]}, right{t[l], c[l], s[l]};
        T pp = at(x.p, y.p), pq = at(x.p, y.q), qp = at(x.q, y.p), qq = at(x.q, y.q);
        rotate(pp, qp, left);
        rotate(pq, qq, left);
        rotate(pp, pq, right);
        rotate(qp, qq, right);
        at(x.p, y.p) = pp, at(x.p, y.q) = pq, at(x.q, y.p) = qp, at(x.q, y.q) = qq;
      });
    }
  }
  team.each(n, [=](int i) {  // a value goes to the place that counting the smaller ones gives
    const T mine = a[i * stride + i];
    int place = 0;
    for (int j = 0; j < n; ++j) {
      const T other = a[j * stride + j];
      place += other < mine || (!(other > mine) && j < i);
    }
    if (!(poison == poison)) place = i;  // NaN has no order
    values[place] = mine * scale.back + poison;
    for (int j = 0; j < n; ++j) vectors[j * n + place] = v[j * stride + i] + poison;
  });
}

}  // namespace GEO_ISA
}  // namespace geo
