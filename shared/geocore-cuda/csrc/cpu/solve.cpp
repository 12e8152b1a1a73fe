// Unit triangular systems (I + T) X = B by substitution, with the columns of X in lanes: a block of columns of one row stays in
// registers while the rows before it are subtracted.
#include "math/number.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

// Columns [c, c + K lanes) of one matrix. Coefficient (i, j) is A[i * down + j * across]; rows run from `first` by `step`.
template <int K, class V, class T>
GEO_FN void columns(const T* A, T* X, int64_t m, int64_t d, int64_t c, int64_t down, int64_t across, bool backward) {
  constexpr int W = Traits<V>::width;
  for (int64_t r = 0; r < m; ++r) {
    const int64_t i = backward ? m - 1 - r : r;
    V sum[K];
    for (int k = 0; k < K; ++k) sum[k] = load<V>(X + i * d + c + k * W);
    for (int64_t q = 0; q < r; ++q) {
      const int64_t j = backward ? m - 1 - q : q;
      const T a = A[i * down + j * across];
      const T* row = X + j * d + c;
      for (int k = 0; k < K; ++k) sum[k] -= a * load<V>(row + k * W);
    }
    for (int k = 0; k < K; ++k) store(X + i * d + c + k * W, sum[k]);
  }
}

template <class T>
void rest(const T* A, T* X, int64_t m, int64_t d, int64_t c, int64_t down, int64_t across, bool backward) {
  for (int64_t r = 1; r < m; ++r) {
    const int64_t i = backward ? m - 1 - r : r;
    for (int64_t q = 0; q < r; ++q) {
      const int64_t j = backward ? m - 1 - q : q;
      const T a = A[i * down + j * across];
      for (int64_t k = c; k < d; ++k) X[i * d + k] -= a * X[j * d + k];
    }
  }
}

template <class T>
void solve(const T* A, const T* B, T* X, int64_t begin, int64_t end, int64_t m, int64_t d, bool upper, bool transpose) {
  using V = typename LanesOf<T>::type;
  constexpr int W = Traits<V>::width;
  const int64_t down = transpose ? 1 : m, across = transpose ? m : 1;
  const bool backward = upper != transpose;
  for (int64_t item = begin; item < end; ++item) {
    const T* a = A + item * m * m;
    T* x = X + item * m * d;
    __builtin_memcpy(x, B + item * m * d, sizeof(T) * m * d);
    int64_t c = 0;
    for (; c + 4 * W <= d; c += 4 * W) columns<4, V>(a, x, m, d, c, down, across, backward);
    for (; c + W <= d; c += W) columns<1, V>(a, x, m, d, c, down, across, backward);
    if (c < d) rest(a, x, m, d, c, down, across, backward);
  }
}

}  // namespace

void unit_solve_f32(const float* A, const float* B, float* X, int64_t begin, int64_t end, int64_t m, int64_t d, bool upper, bool transpose) {
  solve(A, B, X, begin, end, m, d, upper, transpose);
}
void unit_solve_f64(const double* A, const double* B, double* X, int64_t begin, int64_t end, int64_t m, int64_t d, bool upper, bool transpose) {
  solve(A, B, X, begin, end, m, d, upper, transpose);
}

}  // namespace GEO_ISA
}  // namespace geo
