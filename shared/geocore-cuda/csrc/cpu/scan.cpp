// The team of the scan (math/scan.h) on a CPU: one core, with the columns of small row-major matrices in lanes.
#include "math/scan.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

// R rows by Q vectors of C (+)= (+-) A B, all of it in registers.
template <int R, int Q, class V, class T>
GEO_FN void tile(const Operand<T>& a, const T* B, int64_t bs, T* C, int64_t cs, int depth, bool add, bool minus) {
  constexpr int W = Traits<V>::width;
  V sum[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) sum[r][q] = V{};
  const T* at = a.at;
  for (int p = 0; p < depth; ++p, at += a.column, B += bs) {
    V row[Q];
    for (int q = 0; q < Q; ++q) row[q] = load<V>(B + q * W);
    for (int r = 0; r < R; ++r) {
      const T x = at[r * a.row];
      for (int q = 0; q < Q; ++q) sum[r][q] += x * row[q];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) {
      T* to = C + r * cs + q * W;
      const V x = minus ? -sum[r][q] : sum[r][q];
      store(to, add ? load<V>(to) + x : x);
    }
}

template <int R, class V, class T>
GEO_FN void strip(const Operand<T>& a, const T* B, int64_t bs, T* C, int64_t cs, int vectors, int depth, bool add, bool minus) {
  constexpr int W = Traits<V>::width, Q = GEO_VECTOR_BYTES == 64 ? 4 : 2;
  int q = 0;
  for (; q + Q <= vectors; q += Q) tile<R, Q, V>(a, B + q * W, bs, C + q * W, cs, depth, add, minus);
  for (; q < vectors; ++q) tile<R, 1, V>(a, B + q * W, bs, C + q * W, cs, depth, add, minus);
}

// W x W block: exchanges the off-diagonal halves of ever smaller squares.
template <class V>
struct Index;
template <>
struct Index<FloatLanes> {
  typedef int type __attribute__((vector_size(GEO_VECTOR_BYTES)));
};
template <>
struct Index<DoubleLanes> {
  typedef int64_t type __attribute__((vector_size(GEO_VECTOR_BYTES)));
};
template <int S, class V>
GEO_FN void exchange(V* rows) {
  constexpr int W = Traits<V>::width;
  typename Index<V>::type upper, lower;
  for (int j = 0; j < W; ++j) upper[j] = j & S ? W + j - S : j, lower[j] = j & S ? W + j : j + S;
  for (int i = 0; i < W; ++i)
    if (!(i & S)) {
      const V a = rows[i], b = rows[i + S];
      rows[i] = __builtin_shuffle(a, b, upper);
      rows[i + S] = __builtin_shuffle(a, b, lower);
    }
  if constexpr (S > 1) exchange<S / 2>(rows);
}

struct Core {
  template <class T>
  static constexpr int width() { return Traits<typename LanesOf<T>::type>::width; }

  template <class F>
  GEO_FN void each(int rows, int columns, const F& f) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) f(i, j);
  }
  template <class F>
  GEO_FN void lower(int rows, const F& f) const {
    for (int64_t i = 1; i < rows; ++i)
      for (int64_t j = 0; j < i; ++j) f(i, j);
  }
  template <class F>
  GEO_FN void rows(int count, const F& f) const {
    for (int64_t i = 0; i < count; ++i) f(i);
  }
  template <class T>
  GEO_FN T dot(const T* a, const T* b, int64_t n) const {
    using V = typename LanesOf<T>::type;
    constexpr int W = width<T>();
    V sum{};
    int64_t i = 0;
    for (; i + W <= n; i += W) sum += load<V>(a + i) * load<V>(b + i);
    T total = 0;
    for (int j = 0; j < W; ++j) total += sum[j];
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
  }
  // C (m x n) (+)= (+-) A (m x depth) B (depth x n); n is rounded up to whole vectors.
  template <class T>
  __attribute__((noinline)) void product(int m, int n, int depth, Operand<T> a, const T* B, int64_t bs, T* C, int64_t cs, bool add, bool minus) const {
    using V = typename LanesOf<T>::type;
    const int vectors = (n + width<T>() - 1) / width<T>();
    int i = 0;
    const auto step = [&](int rows) { i += rows, a.at += rows * a.row, C += rows * cs; };
    for (; i + 4 <= m; step(4)) strip<4, V>(a, B, bs, C, cs, vectors, depth, add, minus);
    for (; i < m; step(1)) strip<1, V>(a, B, bs, C, cs, vectors, depth, add, minus);
  }
  // At (n x m), both dimensions rounded up to whole vectors.
  template <class T>
  __attribute__((noinline)) void transpose(const T* A, int64_t as, int m, int n, T* At, int64_t ts) const {
    using V = typename LanesOf<T>::type;
    constexpr int W = width<T>();
    for (int i = 0; i < m; i += W)
      for (int j = 0; j < n; j += W) {
        V block[W];
        for (int r = 0; r < W; ++r) block[r] = load<V>(A + (i + r) * as + j);
        exchange<W / 2>(block);
        for (int r = 0; r < W; ++r) store(At + (j + r) * ts + i, block[r]);
      }
  }
  // X <- (I + A)^-1 X for strictly lower triangular A (m x m), or with the transpose of that inverse.
  template <class T>
  __attribute__((noinline)) void solve(const T* A, int64_t as, T* X, int64_t xs, int m, int n, bool transposed) const {
    using V = typename LanesOf<T>::type;
    const int vectors = (n + width<T>() - 1) / width<T>();
    constexpr int R = 4;
    for (int done = 0; done < m; done += R) {
      const int rows = m - done < R ? m - done : R, first = transposed ? m - done - rows : done;
      if (done > 0) {
        const Operand<T> a = transposed ? turned(A + (m - done) * as + first, as) : plain(A + first * as, as);
        product(rows, n, done, a, transposed ? X + (m - done) * xs : X, xs, X + first * xs, xs, true, true);
      }
      for (int r = 1; r < rows; ++r)
        for (int p = 0; p < r; ++p) {
          const int i = transposed ? first + rows - 1 - r : first + r, j = transposed ? first + rows - 1 - p : first + p;
          const T x = transposed ? A[j * as + i] : A[i * as + j];
          for (int q = 0; q < vectors * width<T>(); q += width<T>()) store(X + i * xs + q, load<V>(X + i * xs + q) - x * load<V>(X + j * xs + q));
        }
    }
  }
};

}  // namespace

#define GEO_SCAN(T, suffix)                                                                                                     \
  int64_t scan_memory_##suffix(const void* s, bool backward) {                                                                    \
    return ScanMemory<T>{}.lay(nullptr, *static_cast<const Scan<T>*>(s), Core::width<T>(), backward);                             \
  }                                                                                                                               \
  void scan_forward_##suffix(const void* s, const void* out, int64_t begin, int64_t end, T* scratch) {                            \
    for (int64_t i = begin; i < end; ++i)                                                                                         \
      scan_forward(Core{}, *static_cast<const Scan<T>*>(s), *static_cast<const ScanOutputs<T>*>(out), i, scratch);                \
  }                                                                                                                               \
  void scan_backward_##suffix(const void* s, const void* out, int64_t begin, int64_t end, T* scratch) {                           \
    for (int64_t i = begin; i < end; ++i)                                                                                         \
      scan_backward(Core{}, *static_cast<const Scan<T>*>(s), *static_cast<const ScanGradients<T>*>(out), i, scratch);             \
  }
GEO_SCAN(float, f32)
GEO_SCAN(double, f64)
#undef GEO_SCAN

}  // namespace GEO_ISA
}  // namespace geo
