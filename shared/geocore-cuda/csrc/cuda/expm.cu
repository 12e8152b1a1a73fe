#include "cuda/common.cuh"
#include "cuda/warp.cuh"
#include "math/expm.h"

namespace {

using geo::Tensor;
constexpr int THREADS = 128;

// With DUAL the gradient, the derivative at A^T along G, otherwise the exponential. Up to 4 x 4 one thread each.
template <int N, bool DUAL, class T>
__global__ void thread_kernel(const T* __restrict__ A, const T* __restrict__ G, T* __restrict__ out, int64_t count) {
  constexpr int AREA = N * N;
  for (GEO_GRID_LOOP(i, count)) {
    T memory[geo::expm_memory<T>(N, DUAL)];
    for (int k = 0; k < AREA; ++k) {
      memory[k] = A[i * AREA + (DUAL ? k % N * N + k / N : k)];
      if constexpr (DUAL) memory[AREA + k] = G[i * AREA + k];
    }
    const T* found = geo::Expm<N, N, DUAL, T, geo::Alone>{{}, N, memory}.run() + (DUAL ? AREA : 0);
    for (int k = 0; k < AREA; ++k) out[i * AREA + k] = found[k];
  }
}

// Larger ones in shared memory, a block of one warp each: at most 25 KiB.
template <bool DUAL, class T>
__global__ void warp_kernel(const T* __restrict__ A, const T* __restrict__ G, T* __restrict__ out, int n, int64_t count) {
  extern __shared__ double shared[];
  T* memory = reinterpret_cast<T*>(shared);
  const geo::Warp team;
  const int area = n * n;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    team.each(area, [=](int k) {
      memory[k] = A[i * area + (DUAL ? k % n * n + k / n : k)];
      if constexpr (DUAL) memory[area + k] = G[i * area + k];
    });
    const T* found = geo::Expm<0, 1, DUAL, T, geo::Warp>{team, n, memory}.run() + (DUAL ? area : 0);
    team.each(area, [=](int k) { out[i * area + k] = found[k]; });
  }
}

template <bool DUAL, class T>
void launch(const Tensor& A, const Tensor& G, Tensor& out, int n, const char* op) {
  const T *from = A.const_data_ptr<T>(), *along = G.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const int64_t count = A.numel() / (n * n);
  const cudaStream_t stream = geo::current_stream(A);
  const unsigned grid = geo::blocks(count, THREADS);
  if (n == 2)
    thread_kernel<2, DUAL><<<grid, THREADS, 0, stream>>>(from, along, to, count);
  else if (n == 3)
    thread_kernel<3, DUAL><<<grid, THREADS, 0, stream>>>(from, along, to, count);
  else if (n == 4)
    thread_kernel<4, DUAL><<<grid, THREADS, 0, stream>>>(from, along, to, count);
  else
    warp_kernel<DUAL><<<geo::blocks(count, 1), 32, geo::expm_memory<T>(n, DUAL) * sizeof(T), stream>>>(from, along, to, n, count);
  geo::check_launch(op);
}

Tensor small_expm_cuda(const Tensor& A_) {
  const int n = geo::check_order("small_expm", "A", A_, 1, 16);
  const bool wide = geo::is_double(A_, "small_expm");
  const torch::stable::accelerator::DeviceGuard guard(A_.get_device_index());
  const Tensor A = torch::stable::contiguous(A_);
  Tensor out = torch::stable::new_empty(A, geo::shape_of(A));
  if (A.numel() == 0) return out;
  wide ? launch<false, double>(A, A, out, n, "small_expm") : launch<false, float>(A, A, out, n, "small_expm");
  return out;
}

Tensor small_expm_backward_cuda(const Tensor& A_, const Tensor& G_) {
  const int n = geo::check_order("small_expm_backward", "A", A_, 1, 16);
  const bool wide = geo::is_double(A_, "small_expm_backward");
  geo::check_like("small_expm_backward", "G", G_, "A", A_);
  const torch::stable::accelerator::DeviceGuard guard(A_.get_device_index());
  const Tensor A = torch::stable::contiguous(A_), G = torch::stable::contiguous(G_);
  Tensor out = torch::stable::new_empty(A, geo::shape_of(A));
  if (A.numel() == 0) return out;
  wide ? launch<true, double>(A, G, out, n, "small_expm_backward") : launch<true, float>(A, G, out, n, "small_expm_backward");
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) {
  m.impl("small_expm", TORCH_BOX(&small_expm_cuda));
  m.impl("small_expm_backward", TORCH_BOX(&small_expm_backward_cuda));
}
