#include "ops/rows.h"

#include "cuda/common.cuh"
#include "math/rope.h"

namespace {

using geo::Tensor;
constexpr int THREADS = 256;

template <class T>
__global__ void rope_kernel(const T* __restrict__ x, const T* __restrict__ cos, const T* __restrict__ sin, T* __restrict__ y, int64_t count,
                            int64_t pairs, bool half, T sign, geo::RowMap map) {
  for (GEO_GRID_LOOP(i, count)) {
    const int64_t row = i / pairs, p = i % pairs, at = map.at(row) * pairs + p;
    const int64_t first = row * 2 * pairs + (half ? p : 2 * p), second = first + (half ? pairs : 1);
    T u, v;
    geo::rotate_pair(x[first], x[second], cos[at], sin[at] * sign, u, v);
    y[first] = u;
    y[second] = v;
  }
}

Tensor rope_cuda(const Tensor& x_, const Tensor& cos_, const Tensor& sin_, bool half, bool inverse) {
  geo::check_rope(x_, cos_, sin_);
  const bool wide = geo::is_double(x_, "rope_apply");
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = torch::stable::contiguous(x_), cos = torch::stable::contiguous(cos_), sin = torch::stable::contiguous(sin_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  const geo::RowMap map = geo::rows_of("rope_apply", x, "cos", cos, 1).map<geo::RowMap>();
  const int64_t pairs = x.size(-1) / 2, count = x.numel() / 2;
  const cudaStream_t stream = geo::current_stream(x);
  if (wide)
    rope_kernel<double><<<geo::blocks(count, THREADS), THREADS, 0, stream>>>(x.const_data_ptr<double>(), cos.const_data_ptr<double>(),
                                                                             sin.const_data_ptr<double>(), y.mutable_data_ptr<double>(), count,
                                                                             pairs, half, inverse ? -1.0 : 1.0, map);
  else
    rope_kernel<float><<<geo::blocks(count, THREADS), THREADS, 0, stream>>>(x.const_data_ptr<float>(), cos.const_data_ptr<float>(),
                                                                            sin.const_data_ptr<float>(), y.mutable_data_ptr<float>(), count, pairs,
                                                                            half, inverse ? -1.0f : 1.0f, map);
  geo::check_launch("rope_apply");
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("rope_apply", TORCH_BOX(&rope_cuda)); }
