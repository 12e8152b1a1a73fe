// Eigen-decomposition of batches of small symmetric matrices on the CPU: no torch here, plain memory.
#include "math/jacobi.h"

#include "cpu/batch.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

constexpr int MOST = 32;

template <int N, class T>
void fixed(const T* A, T* values, T* vectors, int64_t begin, int64_t end) {
  using S = typename LanesOf<T>::type;
  for (int64_t at = begin; at < end; at += Traits<S>::width) {
    S full[N * N], a[N * (N + 1) / 2], w[N], v[N * N];
    load_items<N * N>(A, at, end, full);
    for (int i = 0; i < N; ++i)
      for (int j = 0; j <= i; ++j) a[lower(i, j)] = full[i * N + j];
    symmetric_eigen<N>(a, w, v, N);
    for (int p = 0; p < N; ++p)
      for (int r = 0; r < N; ++r) full[r * N + p] = v[p * N + r];
    store_items<N, S>(values, at, end, w);
    store_items<N * N, S>(vectors, at, end, full);
  }
}

// Sorted places of n numbers at `stride`, by insertion.
template <class T>
void ascending(const T* x, int stride, int n, int* order) {
  for (int i = 0; i < n; ++i) {
    int k = i;
    for (; k > 0 && x[order[k - 1] * stride] > x[i * stride]; --k) order[k] = order[k - 1];
    order[k] = i;
  }
}

template <class T>
void any_size(const T* A, T* values, T* vectors, int n, int64_t begin, int64_t end) {
  using S = typename LanesOf<T>::type;
  constexpr int width = Traits<S>::width;
  S a[MOST * (MOST + 1) / 2], w[MOST], v[MOST * MOST];
  for (int64_t first = begin; first < end; first += width) {
    const int count = end - first < width ? static_cast<int>(end - first) : width;
    for (int j = 0; j < width; ++j) {
      const T* item = A + (first + (j < count ? j : count - 1)) * n * n;
      for (int r = 0; r < n; ++r)
        for (int c = 0; c <= r; ++c) a[lower(r, c)][j] = item[r * n + c];
    }
    symmetric_eigen<0>(a, w, v, n);
    for (int j = 0; j < count; ++j) {
      const T *value = reinterpret_cast<const T*>(w) + j, *vector = reinterpret_cast<const T*>(v) + j;
      int order[MOST];
      ascending(value, width, n, order);
      for (int p = 0; p < n; ++p) {
        values[(first + j) * n + p] = value[order[p] * width];
        T* column = vectors + (first + j) * n * n + p;
        for (int r = 0; r < n; ++r) column[r * n] = vector[(order[p] * n + r) * width];
      }
    }
  }
}

template <class T>
void choose(const T* A, T* values, T* vectors, int n, int64_t begin, int64_t end) {
  if (n == 2) return fixed<2>(A, values, vectors, begin, end);
  if (n == 3) return fixed<3>(A, values, vectors, begin, end);
  if (n == 4) return fixed<4>(A, values, vectors, begin, end);
  any_size(A, values, vectors, n, begin, end);
}

}  // namespace

void sym_eig_f32(const float* A, float* values, float* vectors, int n, int64_t begin, int64_t end) {
  choose(A, values, vectors, n, begin, end);
}
void sym_eig_f64(const double* A, double* values, double* vectors, int n, int64_t begin, int64_t end) {
  choose(A, values, vectors, n, begin, end);
}

}  // namespace GEO_ISA
}  // namespace geo
