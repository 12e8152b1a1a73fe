#include "math/rope.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

template <class T>
void rows_half(const T* __restrict__ x, const T* __restrict__ c, const T* __restrict__ s, T* __restrict__ y, int64_t pairs, T sign) {
  const T *a = x, *b = x + pairs;
  T *u = y, *v = y + pairs;
  for (int64_t p = 0; p < pairs; ++p) {
    const T turn = s[p] * sign;
    u[p] = a[p] * c[p] - b[p] * turn;
    v[p] = a[p] * turn + b[p] * c[p];
  }
}

template <class T>
void rows_interleaved(const T* __restrict__ x, const T* __restrict__ c, const T* __restrict__ s, T* __restrict__ y, int64_t pairs, T sign) {
  for (int64_t p = 0; p < pairs; ++p) {
    const T turn = s[p] * sign, a = x[2 * p], b = x[2 * p + 1];
    y[2 * p] = a * c[p] - b * turn;
    y[2 * p + 1] = a * turn + b * c[p];
  }
}

template <class T>
void rows(const T* x, const T* c, const T* s, T* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse, RowWalk walk) {
  const T sign = inverse ? T(-1) : T(1);
  for (int64_t row = begin; row < end; ++row, walk.next()) {
    const int64_t from = row * 2 * pairs, at = walk.at * pairs;
    half ? rows_half<T>(x + from, c + at, s + at, y + from, pairs, sign) : rows_interleaved<T>(x + from, c + at, s + at, y + from, pairs, sign);
  }
}

}  // namespace

void rope_f32(const float* x, const float* c, const float* s, float* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse,
              int dims, const int64_t* size, const int64_t* stride) {
  rows<float>(x, c, s, y, begin, end, pairs, half, inverse, RowWalk(dims, size, stride, begin));
}
void rope_f64(const double* x, const double* c, const double* s, double* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse,
              int dims, const int64_t* size, const int64_t* stride) {
  rows<double>(x, c, s, y, begin, end, pairs, half, inverse, RowWalk(dims, size, stride, begin));
}

}  // namespace GEO_ISA
}  // namespace geo
