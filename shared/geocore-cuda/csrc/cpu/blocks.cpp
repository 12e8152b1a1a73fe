// Block-diagonal matrices times rows of x, and the gradient in the blocks.
#include "math/rows.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

// K numbers in a vector of the next power of two. Reading or writing a whole one touches the block behind, so the last block of a
// row is moved by its K numbers alone; a store that runs over is overwritten by the next.
template <class T, int K>
struct Column {
  static constexpr int width = K <= 2 ? 2 : K <= 4 ? 4 : 8;
  typedef T V __attribute__((vector_size(width * sizeof(T))));

  template <bool LAST>
  static GEO_FN V load(const T* from) {
    V v{};
    __builtin_memcpy(&v, from, (LAST ? K : width) * sizeof(T));
    return v;
  }
  template <bool LAST>
  static GEO_FN void store(T* to, V v) { __builtin_memcpy(to, &v, (LAST ? K : width) * sizeof(T)); }
};

// y = B^T x: each row of the block is a column of its transpose.
template <class T, int K, bool LAST>
GEO_FN void transposed(const T* B, const T* x, T* y) {
  using C = Column<T, K>;
  typename C::V sum{};  // from zero on, so that there is one product to fuse
  for (int r = 0; r < K; ++r) sum = sum + C::template load<LAST>(B + r * K) * x[r];
  C::template store<LAST>(y, sum);
}

// a b + c as the vectors round it: which of the two products ran must not show in the result.
#if defined(__FMA__) || defined(__aarch64__)
GEO_FN float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
GEO_FN double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <class T>
GEO_FN T fused(T a, T b, T c) { return a * b + c; }
#endif

template <class T, int K>
GEO_FN void straight(const T* B, const T* x, T* y) {
  for (int r = 0; r < K; ++r) {
    T sum = T(0);
    for (int c = 0; c < K; ++c) sum = fused(B[r * K + c], x[c], sum);
    y[r] = sum;
  }
}

template <int K, class T>
void rotate(const T* __restrict__ x, const T* __restrict__ blocks, T* __restrict__ y, int64_t begin, int64_t end, int64_t m, bool transpose,
            RowWalk walk) {
  for (int64_t row = begin; row < end; ++row, walk.next()) {
    const T *from = x + row * m * K, *B = blocks + walk.at * m * K * K;
    T* to = y + row * m * K;
    if (transpose) {
      for (int64_t j = 0; j + 1 < m; ++j) transposed<T, K, false>(B + j * K * K, from + j * K, to + j * K);
      transposed<T, K, true>(B + (m - 1) * K * K, from + (m - 1) * K, to + (m - 1) * K);
    } else {
      for (int64_t j = 0; j < m; ++j) straight<T, K>(B + j * K * K, from + j * K, to + j * K);
    }
  }
}

constexpr int64_t RUN = 64;  // rows summed at a time, so that rounding does not grow with their number

// g x^T summed over `count` rows, `step` numbers apart, of one block.
template <int K, bool LAST, class T>
GEO_FN void outer_block(const T* x, const T* g, T* to, int64_t count, int64_t step, bool own) {
  using C = Column<T, K>;
  if (own) {
    for (int r = 0; r < K; ++r)
      for (int c = 0; c < K; ++c) to[r * K + c] = g[r] * x[c];
    return;
  }
  typename C::V sum[K] = {};
  for (int64_t i = 0; i < count; ++i, x += step, g += step) {
    const auto v = C::template load<LAST>(x);
    for (int r = 0; r < K; ++r) sum[r] = sum[r] + v * g[r];
  }
  T part[K * C::width];
  __builtin_memcpy(part, sum, sizeof part);
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c) to[r * K + c] += part[r * C::width + c];
}

// The blocks first .. last - 1 of every row; `own` where no block is shared, and otherwise `out` starts as zeros.
template <int K, class T>
void outer(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ out, int64_t begin, int64_t end, int64_t m, int64_t first,
           int64_t last, bool own, RowWalk walk) {
  for (int64_t row = begin; row < end;) {
    const int64_t at = walk.at;
    int64_t count = 0;
    for (; count < RUN && row + count < end && walk.at == at; ++count) walk.next();
    for (int64_t j = first; j < last; ++j) {
      const int64_t from = (row * m + j) * K;
      T* to = out + (at * m + j) * K * K;
      if (j + 1 < m)
        outer_block<K, false>(x + from, g + from, to, count, m * K, own);
      else
        outer_block<K, true>(x + from, g + from, to, count, m * K, own);
    }
    row += count;
  }
}

}  // namespace

#define GEO_EACH_SIZE(X) \
  X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#define GEO_BLOCKS(T, suffix)                                                                                                                  \
  void block_rotate_##suffix(const T* x, const T* blocks, T* y, int64_t begin, int64_t end, int64_t m, int k, bool transpose, int dims,        \
                             const int64_t* size, const int64_t* stride) {                                                                     \
    const RowWalk walk(dims, size, stride, begin);                                                                                             \
    switch (k) { GEO_EACH_SIZE(GEO_ROTATE) }                                                                                                   \
  }                                                                                                                                            \
  void block_outer_##suffix(const T* x, const T* g, T* out, int64_t begin, int64_t end, int64_t m, int k, int64_t first, int64_t last,         \
                            bool own, int dims, const int64_t* size, const int64_t* stride) {                                                  \
    const RowWalk walk(dims, size, stride, begin);                                                                                             \
    switch (k) { GEO_EACH_SIZE(GEO_OUTER) }                                                                                                    \
  }
#define GEO_ROTATE(K) \
  case K: return rotate<K>(x, blocks, y, begin, end, m, transpose, walk);
#define GEO_OUTER(K) \
  case K: return outer<K>(x, g, out, begin, end, m, first, last, own, walk);
GEO_BLOCKS(float, f32)
GEO_BLOCKS(double, f64)

}  // namespace GEO_ISA
}  // namespace geo
