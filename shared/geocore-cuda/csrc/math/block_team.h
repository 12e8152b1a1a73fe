// The team of math/scan.h on a GPU: the threads of a block, with its matrices in device memory, of which a head's stay in the cache. What
// they do is written with one function of them, each(count, f): f(i) for all i < count, in any order, then a barrier. So that tests can
// play all threads with one.
#pragma once

#include "math/scan.h"

namespace geo {
inline namespace GEO_ISA {

template <class Threads>
struct BlockTeam {
  Threads threads;

  template <class T>
  static GEO_FN constexpr int width() { return 1; }

  template <class F>
  GEO_FN void each(int rows, int columns, const F& f) const {
    threads.each(int64_t(rows) * columns, [&](int64_t x) { f(x / columns, x % columns); });
  }
  template <class F>
  GEO_FN void lower(int rows, const F& f) const {
    each(rows, rows, [&](int64_t i, int64_t j) {
      if (j < i) f(i, j);
    });
  }
  template <class F>
  GEO_FN void rows(int count, const F& f) const { threads.each(count, f); }
  template <class T>
  GEO_FN T dot(const T* a, const T* b, int64_t n) const {
    T total = 0;
    for (int64_t i = 0; i < n; ++i) total += a[i] * b[i];
    return total;
  }
  // Four rows of a column per thread: neighbours read neighbouring columns of B and the same rows of A.
  template <class T>
  GEO_FN void product(int m, int n, int depth, Operand<T> a, const T* B, int64_t bs, T* C, int64_t cs, bool add, bool minus) const {
    each((m + 3) / 4, n, [&](int64_t strip, int64_t j) {
      const int64_t first = 4 * strip, count = m - first < 4 ? m - first : 4;
      T sum[4] = {};
      for (int64_t p = 0; p < depth; ++p) {
        const T x = B[p * bs + j];
        const T* at = a.at + first * a.row + p * a.column;
        for (int r = 0; r < 4; ++r)
          if (r < count) sum[r] += at[r * a.row] * x;
      }
      for (int r = 0; r < 4; ++r)
        if (r < count) {
          T& to = C[(first + r) * cs + j];
          const T x = minus ? -sum[r] : sum[r];
          to = add ? to + x : x;
        }
    });
  }
  template <class T>
  GEO_FN void transpose(const T* A, int64_t as, int m, int n, T* At, int64_t ts) const {
    each(m, n, [&](int64_t i, int64_t j) { At[j * ts + i] = A[i * as + j]; });
  }
  // A thread reads and writes one column only, so none waits for another.
  template <class T>
  GEO_FN void solve(const T* A, int64_t as, T* X, int64_t xs, int m, int n, bool transposed) const {
    threads.each(n, [&](int64_t c) {
      for (int64_t r = 1; r < m; ++r) {
        const int64_t i = transposed ? m - 1 - r : r;
        T sum = X[i * xs + c];
        for (int64_t p = 0; p < r; ++p) {
          const int64_t j = transposed ? m - 1 - p : p;
          sum -= (transposed ? A[j * as + i] : A[i * as + j]) * X[j * xs + c];
        }
        X[i * xs + c] = sum;
      }
    });
  }
};

}  // namespace GEO_ISA
}  // namespace geo
