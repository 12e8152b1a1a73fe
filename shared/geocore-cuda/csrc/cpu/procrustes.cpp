// Nearest rotations of batches of 3 x 3 matrices on the CPU, computed in double whatever the memory holds.
#include "math/procrustes.h"

#include "cpu/batch.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

template <class T>
GEO_FN void load_wide(const T* from, int64_t at, int64_t end, DoubleLanes* out) {
  for (int i = 0; i < Traits<DoubleLanes>::width; ++i) {
    const T* item = from + (at + i < end ? at + i : end - 1) * 9;
    for (int k = 0; k < 9; ++k) out[k][i] = item[k];
  }
}

template <int K, class T>
GEO_FN void store_wide(T* to, int64_t at, int64_t end, const DoubleLanes* in) {
  for (int i = 0; i < Traits<DoubleLanes>::width && at + i < end; ++i)
    for (int k = 0; k < K; ++k) to[(at + i) * K + k] = static_cast<T>(in[k][i]);
}

template <class T>
void forward(const T* M, T* R, T* s, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += Traits<DoubleLanes>::width) {
    DoubleLanes m[9], r[9], values[3];
    load_wide(M, at, end, m);
    procrustes3(m, r, values);
    store_wide<9>(R, at, end, r);
    store_wide<3>(s, at, end, values);
  }
}

template <class T>
void factors(const T* M, T* U, T* s, T* Vh, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += Traits<DoubleLanes>::width) {
    DoubleLanes m[9], u[9], values[3], v[9];
    load_wide(M, at, end, m);
    factors3(m, u, values, v);
    store_wide<9>(U, at, end, u);
    store_wide<3>(s, at, end, values);
    store_wide<9>(Vh, at, end, v);
  }
}

template <class T>
void gradient(const T* M, const T* g, T* out, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += Traits<DoubleLanes>::width) {
    DoubleLanes m[9], given[9], found[9];
    load_wide(M, at, end, m);
    load_wide(g, at, end, given);
    procrustes3_backward(m, given, 4.0 * std::numeric_limits<T>::epsilon(), found);
    store_wide<9>(out, at, end, found);
  }
}

}  // namespace

void procrustes3_f32(const float* M, float* R, float* s, int64_t begin, int64_t end) { forward(M, R, s, begin, end); }
void procrustes3_f64(const double* M, double* R, double* s, int64_t begin, int64_t end) { forward(M, R, s, begin, end); }
void svd3_f32(const float* M, float* U, float* s, float* Vh, int64_t begin, int64_t end) { factors(M, U, s, Vh, begin, end); }
void svd3_f64(const double* M, double* U, double* s, double* Vh, int64_t begin, int64_t end) { factors(M, U, s, Vh, begin, end); }
void procrustes3_backward_f32(const float* M, const float* g, float* out, int64_t begin, int64_t end) { gradient(M, g, out, begin, end); }
void procrustes3_backward_f64(const double* M, const double* g, double* out, int64_t begin, int64_t end) { gradient(M, g, out, begin, end); }

}  // namespace GEO_ISA
}  // namespace geo
