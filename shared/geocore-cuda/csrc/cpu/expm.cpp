// Exponentials of batches of small matrices on the CPU, and their gradients: the derivative at A^T along G.
#include "math/expm.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

constexpr int MOST = 16;

template <int N, bool DUAL, class T>
void run(const T* A, const T* G, T* out, int n, int64_t begin, int64_t end) {
  using S = typename LanesOf<T>::type;
  constexpr int width = Traits<S>::width, order = N > 0 ? N : MOST;
  if constexpr (N > 0) n = N;
  const int area = n * n;
  S memory[expm_memory<S>(order, DUAL)];
  for (int64_t first = begin; first < end; first += width) {
    const int count = end - first < width ? static_cast<int>(end - first) : width;
    for (int j = 0; j < width; ++j) {
      const int64_t at = (first + (j < count ? j : count - 1)) * area;
      for (int k = 0; k < area; ++k) {
        memory[k][j] = A[at + (DUAL ? k % n * n + k / n : k)];
        if constexpr (DUAL) memory[area + k][j] = G[at + k];
      }
    }
    const S* found = Expm<N, 4, DUAL, S, Alone>{{}, n, memory}.run() + (DUAL ? area : 0);
    for (int j = 0; j < count; ++j)
      for (int k = 0; k < area; ++k) out[(first + j) * area + k] = found[k][j];
  }
}

template <bool DUAL, class T>
void choose(const T* A, const T* G, T* out, int n, int64_t begin, int64_t end) {
  if (n == 2) return run<2, DUAL>(A, G, out, n, begin, end);
  if (n == 3) return run<3, DUAL>(A, G, out, n, begin, end);
  if (n == 4) return run<4, DUAL>(A, G, out, n, begin, end);
  if (n == 8) return run<8, DUAL>(A, G, out, n, begin, end);
  run<0, DUAL>(A, G, out, n, begin, end);
}

}  // namespace

void small_expm_f32(const float* A, float* out, int n, int64_t begin, int64_t end) {
  choose<false>(A, static_cast<const float*>(nullptr), out, n, begin, end);
}
void small_expm_f64(const double* A, double* out, int n, int64_t begin, int64_t end) {
  choose<false>(A, static_cast<const double*>(nullptr), out, n, begin, end);
}
void small_expm_backward_f32(const float* A, const float* G, float* out, int n, int64_t begin, int64_t end) {
  choose<true>(A, G, out, n, begin, end);
}
void small_expm_backward_f64(const double* A, const double* G, double* out, int n, int64_t begin, int64_t end) {
  choose<true>(A, G, out, n, begin, end);
}

}  // namespace GEO_ISA
}  // namespace geo
