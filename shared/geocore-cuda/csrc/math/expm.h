// Exponential of small matrices and its derivative in one direction, by scaling, a Taylor polynomial and squaring.
//
// The degree is fixed (16 in double with six products, 9 in float with four), the scale is chosen per matrix so that its 1-norm is at
// most 0.8; there the polynomial is exact to rounding. The derivative is the same computation in dual numbers X + d E, three products
// for one, so the size of E never changes the scale.
//
// A team has one function, each(count, f): f(i) for all i < count, in any order, then a barrier. It is one thread, or a warp that
// shares the memory.
#pragma once

#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

struct Alone {
  template <class F>
  GEO_FN void each(int count, F f) const {
    for (int i = 0; i < count; ++i) f(i);
  }
};

constexpr double EXPM_REACH = 0.8;
GEO_FN double inverse_factorial(int k) {
  constexpr double table[17] = {1.0,           1.0,           1.0 / 2,         1.0 / 6,           1.0 / 24,           1.0 / 120,
                                1.0 / 720,     1.0 / 5040,    1.0 / 40320,     1.0 / 362880,      1.0 / 3628800,      1.0 / 39916800,
                                1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200, 1.0 / 1307674368000, 1.0 / 20922789888000};
  return table[k];
}

// Numbers of memory for one matrix: the powers, the result, a product; each twice with a derivative; and one row.
template <class S>
GEO_FN constexpr int expm_memory(int n, bool dual) {
  return (sizeof(scalar_t<S>) == 4 ? 5 : 6) * n * n * (dual ? 2 : 1) + n;
}

// N is the size or 0 for n; COLUMNS entries of a row are computed together.
template <int N, int COLUMNS, bool DUAL, class S, class Team>
struct Expm {
  static constexpr int BLOCK = sizeof(scalar_t<S>) == 4 ? 3 : 4;
  static constexpr int DEGREE = sizeof(scalar_t<S>) == 4 ? 9 : 16;

  Team team;
  int n;
  S* memory;

  GEO_FN int order() const { return N > 0 ? N : n; }
  GEO_FN int area() const { return order() * order(); }
  // Power k of A (1 to BLOCK: the polynomial is evaluated in blocks of as many terms), then the result, then the product; the derivative follows each.
  GEO_FN S* matrix(int k) const { return memory + (k - 1) * area() * (DUAL ? 2 : 1); }
  GEO_FN S* row() const { return matrix(BLOCK + 3); }

  GEO_FN void multiply(const S* x, const S* y, S* out) const {
    const int m = order(), all = area(), blocks = (m + COLUMNS - 1) / COLUMNS;
    team.each(m * blocks, [=](int item) {
      const int i = item / blocks, j = item % blocks * COLUMNS;
      if (j + COLUMNS <= m) {
        S value[COLUMNS] = {}, slope[COLUMNS] = {};
        for (int k = 0; k < m; ++k) {
          const S left = x[i * m + k];
          for (int c = 0; c < COLUMNS; ++c) value[c] = value[c] + left * y[k * m + j + c];
          if constexpr (DUAL) {
            const S turn = x[all + i * m + k];
            for (int c = 0; c < COLUMNS; ++c) slope[c] = slope[c] + left * y[all + k * m + j + c] + turn * y[k * m + j + c];
          }
        }
        for (int c = 0; c < COLUMNS; ++c) {
          out[i * m + j + c] = value[c];
          if constexpr (DUAL) out[all + i * m + j + c] = slope[c];
        }
        return;
      }
      for (int c = j; c < m; ++c) {
        S value = S{}, slope = S{};
        for (int k = 0; k < m; ++k) {
          value = value + x[i * m + k] * y[k * m + c];
          if constexpr (DUAL) slope = slope + x[i * m + k] * y[all + k * m + c] + x[all + i * m + k] * y[k * m + c];
        }
        out[i * m + c] = value;
        if constexpr (DUAL) out[all + i * m + c] = slope;
      }
    });
  }

  // out = carried + sum of A^k / (first + k)! for k below `terms`.
  GEO_FN void polynomial(int first, int terms, const S* carried, S* out) const {
    const int m = order(), all = area();
    const Expm self = *this;
    team.each(all * (DUAL ? 2 : 1), [=](int i) {
      S total = carried == nullptr ? S{} : carried[i];
      if (i < all && i % (m + 1) == 0) total = total + constant<S>(inverse_factorial(first));
      for (int k = 1; k < terms; ++k) total = total + constant<S>(inverse_factorial(first + k)) * self.matrix(k)[i];
      out[i] = total;
    });
  }

  // From matrix(1) to matrix(BLOCK + 1). Not finite in any entry gives NaN in every result.
  GEO_FN S* run() const {
    const int m = order(), all = area();
    const Expm self = *this;
    const S one = constant<S>(1), half = constant<S>(0.5), reach = constant<S>(EXPM_REACH);
    S *a = matrix(1), *x = matrix(BLOCK + 1), *y = matrix(BLOCK + 2);
    team.each(m, [=](int j) {
      S sum = S{};
      for (int i = 0; i < m; ++i) sum = sum + magnitude(a[i * m + j]);
      self.row()[j] = sum;
    });
    S norm = S{}, poison = S{};
    for (int j = 0; j < m; ++j) {
      norm = pick(row()[j] > norm, row()[j], norm);
      poison = poison + row()[j] * S{};
    }
    norm = pick(poison == poison, norm, S{});
    S by = one, squarings = S{};
    for (;;) {
      const auto large = norm * by > reach;
      if (!any(large)) break;
      by = pick(large, by * half, by);
      squarings = squarings + pick(large, one, S{});
    }
    team.each(all * (DUAL ? 2 : 1), [=](int i) { a[i] = a[i] * by + poison; });
    for (int k = 2; k <= BLOCK; ++k) multiply(matrix(k - 1), a, matrix(k));
    polynomial(DEGREE - BLOCK, BLOCK + 1, nullptr, x);
    for (int first = DEGREE - 2 * BLOCK; first >= 0; first -= BLOCK) {
      multiply(x, matrix(BLOCK), y);
      polynomial(first, BLOCK, y, x);
    }
    for (S done = S{}; any(done < squarings); done = done + one) {
      multiply(x, x, y);
      const auto more = done < squarings;
      team.each(all * (DUAL ? 2 : 1), [=](int i) { x[i] = pick(more, y[i], x[i]); });
    }
    return x;
  }
};

}  // namespace GEO_ISA
}  // namespace geo
