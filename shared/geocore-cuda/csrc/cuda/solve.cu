#include "cuda/common.cuh"

namespace {

using geo::Tensor;
constexpr int THREADS = 128;

// One thread per column of one system: it reads and writes that column only, so no thread waits for another.
template <class T>
__global__ void solve_kernel(const T* __restrict__ A, const T* __restrict__ B, T* X, int64_t columns, int64_t m, int64_t d, bool upper,
                             bool transpose) {
  const int64_t down = transpose ? 1 : m, across = transpose ? m : 1;
  const bool backward = upper != transpose;
  for (GEO_GRID_LOOP(n, columns)) {
    const int64_t item = n / d, c = n % d;
    const T* a = A + item * m * m;
    const T* b = B + item * m * d + c;
    T* x = X + item * m * d + c;
    for (int64_t r = 0; r < m; ++r) {
      const int64_t i = backward ? m - 1 - r : r;
      T sum = b[i * d];
      for (int64_t q = 0; q < r; ++q) {
        const int64_t j = backward ? m - 1 - q : q;
        sum -= a[i * down + j * across] * x[j * d];
      }
      x[i * d] = sum;
    }
  }
}

Tensor unit_solve_cuda(const Tensor& A_, const Tensor& B_, bool upper, bool transpose) {
  geo::check_systems(A_, B_);
  const bool wide = geo::is_double(A_, "unit_solve");
  const torch::stable::accelerator::DeviceGuard guard(A_.get_device_index());
  const Tensor A = torch::stable::contiguous(A_), B = torch::stable::contiguous(B_);
  Tensor X = torch::stable::new_empty(B, geo::shape_of(B));
  if (X.numel() == 0) return X;
  const int64_t m = B.size(-2), d = B.size(-1), columns = B.numel() / m;
  const cudaStream_t stream = geo::current_stream(A);
  if (wide)
    solve_kernel<double><<<geo::blocks(columns, THREADS), THREADS, 0, stream>>>(A.const_data_ptr<double>(), B.const_data_ptr<double>(),
                                                                               X.mutable_data_ptr<double>(), columns, m, d, upper, transpose);
  else
    solve_kernel<float><<<geo::blocks(columns, THREADS), THREADS, 0, stream>>>(A.const_data_ptr<float>(), B.const_data_ptr<float>(),
                                                                              X.mutable_data_ptr<float>(), columns, m, d, upper, transpose);
  geo::check_launch("unit_solve");
  return X;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("unit_solve", TORCH_BOX(&unit_solve_cuda)); }
