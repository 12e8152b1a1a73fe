#include "cuda/common.cuh"
#include "math/procrustes.h"

namespace {

using geo::Tensor;
constexpr int THREADS = 128;

template <class T>
__global__ void forward_kernel(const T* __restrict__ M, T* __restrict__ R, T* __restrict__ s, int64_t count) {
  for (GEO_GRID_LOOP(i, count)) {
    double m[9], r[9], values[3];
#pragma unroll
    for (int k = 0; k < 9; ++k) m[k] = M[9 * i + k];
    geo::procrustes3(m, r, values);
#pragma unroll
    for (int k = 0; k < 9; ++k) R[9 * i + k] = static_cast<T>(r[k]);
#pragma unroll
    for (int k = 0; k < 3; ++k) s[3 * i + k] = static_cast<T>(values[k]);
  }
}

template <class T>
__global__ void factors_kernel(const T* __restrict__ M, T* __restrict__ U, T* __restrict__ s, T* __restrict__ Vh, int64_t count) {
  for (GEO_GRID_LOOP(i, count)) {
    double m[9], u[9], values[3], v[9];
#pragma unroll
    for (int k = 0; k < 9; ++k) m[k] = M[9 * i + k];
    geo::factors3(m, u, values, v);
#pragma unroll
    for (int k = 0; k < 9; ++k) U[9 * i + k] = static_cast<T>(u[k]), Vh[9 * i + k] = static_cast<T>(v[k]);
#pragma unroll
    for (int k = 0; k < 3; ++k) s[3 * i + k] = static_cast<T>(values[k]);
  }
}

template <class T>
__global__ void gradient_kernel(const T* __restrict__ M, const T* __restrict__ g, T* __restrict__ out, double floor, int64_t count) {
  for (GEO_GRID_LOOP(i, count)) {
    double m[9], given[9], found[9];
#pragma unroll
    for (int k = 0; k < 9; ++k) m[k] = M[9 * i + k], given[k] = g[9 * i + k];
    geo::procrustes3_backward(m, given, floor, found);
#pragma unroll
    for (int k = 0; k < 9; ++k) out[9 * i + k] = static_cast<T>(found[k]);
  }
}

template <class T>
void forward(const Tensor& M, Tensor& R, Tensor& s) {
  const int64_t count = M.numel() / 9;
  forward_kernel<<<geo::blocks(count, THREADS), THREADS, 0, geo::current_stream(M)>>>(
      M.const_data_ptr<T>(), R.mutable_data_ptr<T>(), s.mutable_data_ptr<T>(), count);
  geo::check_launch("procrustes3");
}

template <class T>
void gradient(const Tensor& M, const Tensor& g, Tensor& out) {
  const int64_t count = M.numel() / 9;
  gradient_kernel<<<geo::blocks(count, THREADS), THREADS, 0, geo::current_stream(M)>>>(
      M.const_data_ptr<T>(), g.const_data_ptr<T>(), out.mutable_data_ptr<T>(), 4.0 * std::numeric_limits<T>::epsilon(), count);
  geo::check_launch("procrustes3_backward");
}

std::tuple<Tensor, Tensor> procrustes3_cuda(const Tensor& M_) {
  geo::check_order("procrustes3", "M", M_, 3, 3);
  const bool wide = geo::is_double(M_, "procrustes3");
  const torch::stable::accelerator::DeviceGuard guard(M_.get_device_index());
  const Tensor M = torch::stable::contiguous(M_);
  Tensor R = torch::stable::new_empty(M, M.sizes()), s = torch::stable::new_empty(M, geo::with_trailing(M, {3, 3}, {3}));
  if (M.numel() == 0) return {R, s};
  wide ? forward<double>(M, R, s) : forward<float>(M, R, s);
  return {R, s};
}

Tensor procrustes3_backward_cuda(const Tensor& M_, const Tensor& g_) {
  geo::check_order("procrustes3_backward", "M", M_, 3, 3);
  geo::check_like("procrustes3_backward", "g", g_, "M", M_);
  const bool wide = geo::is_double(M_, "procrustes3_backward");
  const torch::stable::accelerator::DeviceGuard guard(M_.get_device_index());
  const Tensor M = torch::stable::contiguous(M_), g = torch::stable::contiguous(g_);
  Tensor out = torch::stable::new_empty(M, geo::shape_of(M));
  if (M.numel() == 0) return out;
  wide ? gradient<double>(M, g, out) : gradient<float>(M, g, out);
  return out;
}

template <class T>
void factors(const Tensor& M, Tensor& U, Tensor& s, Tensor& Vh) {
  const int64_t count = M.numel() / 9;
  factors_kernel<<<geo::blocks(count, THREADS), THREADS, 0, geo::current_stream(M)>>>(
      M.const_data_ptr<T>(), U.mutable_data_ptr<T>(), s.mutable_data_ptr<T>(), Vh.mutable_data_ptr<T>(), count);
  geo::check_launch("svd3");
}

std::tuple<Tensor, Tensor, Tensor> svd3_cuda(const Tensor& M_) {
  geo::check_order("svd3", "M", M_, 3, 3);
  const bool wide = geo::is_double(M_, "svd3");
  const torch::stable::accelerator::DeviceGuard guard(M_.get_device_index());
  const Tensor M = torch::stable::contiguous(M_);
  Tensor U = torch::stable::new_empty(M, M.sizes()), Vh = torch::stable::new_empty(M, M.sizes());
  Tensor s = torch::stable::new_empty(M, geo::with_trailing(M, {3, 3}, {3}));
  if (M.numel() == 0) return {U, s, Vh};
  wide ? factors<double>(M, U, s, Vh) : factors<float>(M, U, s, Vh);
  return {U, s, Vh};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) {
  m.impl("procrustes3", TORCH_BOX(&procrustes3_cuda));
  m.impl("procrustes3_backward", TORCH_BOX(&procrustes3_backward_cuda));
  m.impl("svd3", TORCH_BOX(&svd3_cuda));
}
