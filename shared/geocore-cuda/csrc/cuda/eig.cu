#include "cuda/common.cuh"
#include "cuda/warp.cuh"
#include "math/team_jacobi.h"

namespace {

using geo::Tensor;
constexpr int THREADS = 128;

// Up to 4 x 4 in the registers of one thread.
template <int N, class T>
__global__ void thread_kernel(const T* __restrict__ A, T* __restrict__ values, T* __restrict__ vectors, int64_t count) {
  for (GEO_GRID_LOOP(i, count)) {
    T a[N * (N + 1) / 2], w[N], v[N * N];
#pragma unroll
    for (int r = 0; r < N; ++r)
#pragma unroll
      for (int c = 0; c <= r; ++c) a[geo::lower(r, c)] = A[i * N * N + r * N + c];
    geo::symmetric_eigen<N>(a, w, v, N);
#pragma unroll
    for (int p = 0; p < N; ++p) {
      values[i * N + p] = w[p];
#pragma unroll
      for (int r = 0; r < N; ++r) vectors[i * N * N + r * N + p] = v[p * N + r];
    }
  }
}

// Larger ones in shared memory, a block of one warp each: at most 17 KiB.
template <class T>
__global__ void warp_kernel(const T* __restrict__ A, T* __restrict__ values, T* __restrict__ vectors, int n, int64_t count) {
  extern __shared__ double memory[];
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x)
    geo::team_eigen(geo::Warp{}, A + i * n * n, n, values + i * n, vectors + i * n * n, reinterpret_cast<T*>(memory));
}

template <class T>
void launch(const Tensor& A, Tensor& values, Tensor& vectors, int n) {
  const T* from = A.const_data_ptr<T>();
  T *w = values.mutable_data_ptr<T>(), *v = vectors.mutable_data_ptr<T>();
  const int64_t count = A.numel() / (n * n);
  const cudaStream_t stream = geo::current_stream(A);
  const unsigned grid = geo::blocks(count, THREADS);
  if (n == 2)
    thread_kernel<2><<<grid, THREADS, 0, stream>>>(from, w, v, count);
  else if (n == 3)
    thread_kernel<3><<<grid, THREADS, 0, stream>>>(from, w, v, count);
  else if (n == 4)
    thread_kernel<4><<<grid, THREADS, 0, stream>>>(from, w, v, count);
  else
    warp_kernel<<<geo::blocks(count, 1), 32, geo::team_memory(n) * sizeof(T), stream>>>(from, w, v, n, count);
  geo::check_launch("sym_eig");
}

std::tuple<Tensor, Tensor> sym_eig_cuda(const Tensor& A_) {
  const int n = geo::check_order("sym_eig", "A", A_, 2, 32);
  const bool wide = geo::is_double(A_, "sym_eig");
  const torch::stable::accelerator::DeviceGuard guard(A_.get_device_index());
  const Tensor A = torch::stable::contiguous(A_);
  Tensor vectors = torch::stable::new_empty(A, A.sizes()), values = torch::stable::new_empty(A, geo::with_trailing(A, {n, n}, {n}));
  if (A.numel() == 0) return {values, vectors};
  wide ? launch<double>(A, values, vectors, n) : launch<float>(A, values, vectors, n);
  return {values, vectors};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("sym_eig", TORCH_BOX(&sym_eig_cuda)); }
