#include "math/half.h"
#include "math/rope.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

// T is how the numbers stand in memory; 16 bits are rounded once, at the end.
template <class T>
void rows_half(const T* __restrict__ x, const T* __restrict__ c, const T* __restrict__ s, T* __restrict__ y, int64_t pairs, bool inverse) {
  const T *first = x, *second = x + pairs;
  T *u = y, *v = y + pairs;
  for (int64_t p = 0; p < pairs; ++p) {
    const auto a = widen(first[p]), b = widen(second[p]), cos = widen(c[p]), sin = widen(s[p]), turn = inverse ? -sin : sin;
    narrow(a * cos - b * turn, u[p]);
    narrow(a * turn + b * cos, v[p]);
  }
}

template <class T>
void rows_interleaved(const T* __restrict__ x, const T* __restrict__ c, const T* __restrict__ s, T* __restrict__ y, int64_t pairs, bool inverse) {
  for (int64_t p = 0; p < pairs; ++p) {
    const auto a = widen(x[2 * p]), b = widen(x[2 * p + 1]), cos = widen(c[p]), sin = widen(s[p]), turn = inverse ? -sin : sin;
    narrow(a * cos - b * turn, y[2 * p]);
    narrow(a * turn + b * cos, y[2 * p + 1]);
  }
}

}  // namespace

#define GEO_ROPE(T, suffix)                                                                                                                \
  void rope_##suffix(const void* x_, const void* c_, const void* s_, void* y_, int64_t begin, int64_t end, int64_t pairs, bool half,       \
                     bool inverse, int dims, const int64_t* size, const int64_t* stride) {                                                 \
    const T *x = static_cast<const T*>(x_), *c = static_cast<const T*>(c_), *s = static_cast<const T*>(s_);                                \
    T* y = static_cast<T*>(y_);                                                                                                            \
    RowWalk walk(dims, size, stride, begin);                                                                                               \
    for (int64_t row = begin; row < end; ++row, walk.next()) {                                                                             \
      const int64_t from = row * 2 * pairs, at = walk.at * pairs;                                                                          \
      (half ? rows_half<T> : rows_interleaved<T>)(x + from, c + at, s + at, y + from, pairs, inverse);                                     \
    }                                                                                                                                      \
  }
GEO_ROPE(float, f32)
GEO_ROPE(double, f64)
GEO_ROPE(BFloat16, bf16)

}  // namespace GEO_ISA
}  // namespace geo
