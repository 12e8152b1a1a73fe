#include "cuda/common.cuh"
#include "math/maps.h"

namespace {

using geo::Tensor;
using Dims = std::vector<int64_t>;
constexpr int THREADS = 128;

template <class Map, class T>
__global__ void unary_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (GEO_GRID_LOOP(i, n)) {
    T in[Map::in], out[Map::out];
#pragma unroll
    for (int k = 0; k < Map::in; ++k) in[k] = x[Map::in * i + k];
    Map::run(in, out);
#pragma unroll
    for (int k = 0; k < Map::out; ++k) y[Map::out * i + k] = out[k];
  }
}

template <class Map, class T>
__global__ void binary_kernel(const T* __restrict__ x, const T* __restrict__ z, T* __restrict__ y, int64_t n) {
  for (GEO_GRID_LOOP(i, n)) {
    T left[Map::left], right[Map::right], out[Map::out];
#pragma unroll
    for (int k = 0; k < Map::left; ++k) left[k] = x[Map::left * i + k];
#pragma unroll
    for (int k = 0; k < Map::right; ++k) right[k] = z[Map::right * i + k];
    Map::run(left, right, out);
#pragma unroll
    for (int k = 0; k < Map::out; ++k) y[Map::out * i + k] = out[k];
  }
}

template <class Map>
Tensor unary(const char* op, const Tensor& x_, const Dims& in, const Dims& out) {
  geo::check_trailing(op, x_, in);
  const bool wide = geo::is_double(x_, op);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = torch::stable::contiguous(x_);
  Tensor y = torch::stable::new_empty(x, geo::with_trailing(x, in, out));
  const int64_t n = x.numel() / geo::product(in);
  if (n == 0) return y;  // an empty grid is a launch error
  const cudaStream_t stream = geo::current_stream(x);
  if (wide)
    unary_kernel<Map, double><<<geo::blocks(n, THREADS), THREADS, 0, stream>>>(x.const_data_ptr<double>(), y.mutable_data_ptr<double>(), n);
  else
    unary_kernel<Map, float><<<geo::blocks(n, THREADS), THREADS, 0, stream>>>(x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), n);
  geo::check_launch(op);
  return y;
}

template <class Map>
Tensor binary(const char* op, const Tensor& a_, const Tensor& b_, const Dims& left, const Dims& right, const Dims& out) {
  geo::check_trailing(op, a_, left);
  geo::check_trailing(op, b_, right);
  const int64_t n = a_.numel() / geo::product(left);
  STD_TORCH_CHECK(n == b_.numel() / geo::product(right), op, ": both arguments must hold the same number of items");
  STD_TORCH_CHECK(a_.scalar_type() == b_.scalar_type(), op, ": both arguments must have one dtype");
  STD_TORCH_CHECK(a_.get_device_index() == b_.get_device_index(), op, ": both arguments must be on one device");
  const bool wide = geo::is_double(a_, op);
  const torch::stable::accelerator::DeviceGuard guard(a_.get_device_index());
  const Tensor a = torch::stable::contiguous(a_), b = torch::stable::contiguous(b_);
  Tensor y = torch::stable::new_empty(a, geo::with_trailing(a, left, out));
  if (n == 0) return y;
  const cudaStream_t stream = geo::current_stream(a);
  if (wide)
    binary_kernel<Map, double><<<geo::blocks(n, THREADS), THREADS, 0, stream>>>(a.const_data_ptr<double>(), b.const_data_ptr<double>(),
                                                                                y.mutable_data_ptr<double>(), n);
  else
    binary_kernel<Map, float><<<geo::blocks(n, THREADS), THREADS, 0, stream>>>(a.const_data_ptr<float>(), b.const_data_ptr<float>(),
                                                                               y.mutable_data_ptr<float>(), n);
  geo::check_launch(op);
  return y;
}

}  // namespace

#define GEO_UNARY_OP(name, ...) \
  static Tensor name##_cuda(const Tensor& x) { return unary<geo::Map_##name>(#name, x, __VA_ARGS__); }
#define GEO_BINARY_OP(name, ...) \
  static Tensor name##_cuda(const Tensor& a, const Tensor& b) { return binary<geo::Map_##name>(#name, a, b, __VA_ARGS__); }

GEO_UNARY_OP(so3_exp, Dims{3}, Dims{3, 3})
GEO_UNARY_OP(so3_log, Dims{3, 3}, Dims{3})
GEO_UNARY_OP(quat_to_matrix, Dims{4}, Dims{3, 3})
GEO_UNARY_OP(matrix_to_quat, Dims{3, 3}, Dims{4})
GEO_BINARY_OP(so3_exp_backward, Dims{3}, Dims{3, 3}, Dims{3})
GEO_BINARY_OP(so3_log_backward, Dims{3, 3}, Dims{3}, Dims{3, 3})
GEO_BINARY_OP(quat_to_matrix_backward, Dims{4}, Dims{3, 3}, Dims{4})
GEO_BINARY_OP(matrix_to_quat_backward, Dims{3, 3}, Dims{4}, Dims{3, 3})
GEO_BINARY_OP(quat_mul, Dims{4}, Dims{4}, Dims{4})

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) {
  m.impl("so3_exp", TORCH_BOX(&so3_exp_cuda));
  m.impl("so3_log", TORCH_BOX(&so3_log_cuda));
  m.impl("quat_to_matrix", TORCH_BOX(&quat_to_matrix_cuda));
  m.impl("matrix_to_quat", TORCH_BOX(&matrix_to_quat_cuda));
  m.impl("so3_exp_backward", TORCH_BOX(&so3_exp_backward_cuda));
  m.impl("so3_log_backward", TORCH_BOX(&so3_log_backward_cuda));
  m.impl("quat_to_matrix_backward", TORCH_BOX(&quat_to_matrix_backward_cuda));
  m.impl("matrix_to_quat_backward", TORCH_BOX(&matrix_to_quat_backward_cuda));
  m.impl("quat_mul", TORCH_BOX(&quat_mul_cuda));
}
