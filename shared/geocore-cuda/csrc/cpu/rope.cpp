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
void rows(const T* x, const T* c, const T* s, T* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse, const RowMap& map) {
  const T sign = inverse ? T(-1) : T(1);
  int64_t index[MAX_DIMS], at = 0, rest = begin;
  for (int i = map.dims - 1; i >= 0; --i) {
    index[i] = rest % map.size[i];
    rest /= map.size[i];
    at += index[i] * map.stride[i];
  }
  for (int64_t row = begin; row < end; ++row) {
    const T* in = x + row * 2 * pairs;
    T* out = y + row * 2 * pairs;
    if (half)
      rows_half<T>(in, c + at * pairs, s + at * pairs, out, pairs, sign);
    else
      rows_interleaved<T>(in, c + at * pairs, s + at * pairs, out, pairs, sign);
    for (int i = map.dims - 1; i >= 0; --i) {  // the next row, as an odometer
      at += map.stride[i];
      if (++index[i] < map.size[i]) break;
      at -= map.stride[i] * map.size[i];
      index[i] = 0;
    }
  }
}

}  // namespace

void rope_f32(const float* x, const float* c, const float* s, float* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse,
              int dims, const int64_t* size, const int64_t* stride) {
  RowMap map{dims, {}, {}};
  for (int i = 0; i < dims; ++i) map.size[i] = size[i], map.stride[i] = stride[i];
  rows<float>(x, c, s, y, begin, end, pairs, half, inverse, map);
}
void rope_f64(const double* x, const double* c, const double* s, double* y, int64_t begin, int64_t end, int64_t pairs, bool half, bool inverse,
              int dims, const int64_t* size, const int64_t* stride) {
  RowMap map{dims, {}, {}};
  for (int i = 0; i < dims; ++i) map.size[i] = size[i], map.stride[i] = stride[i];
  rows<double>(x, c, s, y, begin, end, pairs, half, inverse, map);
}

}  // namespace GEO_ISA
}  // namespace geo
