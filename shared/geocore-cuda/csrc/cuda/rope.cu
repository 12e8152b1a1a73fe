#include "ops/rows.h"

#include "cuda/common.cuh"
#include "math/rope.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace {

using geo::ScalarType;
using geo::Tensor;
constexpr int THREADS = 256;

// T is how the numbers stand in memory, S what is computed in.
template <class S, class T>
__global__ void rope_kernel(const T* __restrict__ x, const T* __restrict__ cos, const T* __restrict__ sin, T* __restrict__ y, int64_t count,
                            int64_t pairs, bool half, S sign, geo::RowMap map) {
  for (GEO_GRID_LOOP(i, count)) {
    const int64_t row = i / pairs, p = i % pairs, at = map.at(row) * pairs + p;
    const int64_t first = row * 2 * pairs + (half ? p : 2 * p), second = first + (half ? pairs : 1);
    S u, v;
    geo::rotate_pair(static_cast<S>(x[first]), static_cast<S>(x[second]), static_cast<S>(cos[at]), static_cast<S>(sin[at]) * sign, u, v);
    y[first] = static_cast<T>(u);
    y[second] = static_cast<T>(v);
  }
}

Tensor rope_cuda(const Tensor& x_, const Tensor& cos_, const Tensor& sin_, bool half, bool inverse) {
  geo::check_rope(x_, cos_, sin_);
  const ScalarType kind = x_.scalar_type();
  STD_TORCH_CHECK(kind == ScalarType::Float || kind == ScalarType::Double || kind == ScalarType::Half || kind == ScalarType::BFloat16,
                  "rope_apply: expected float32, float64, float16 or bfloat16");
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = torch::stable::contiguous(x_), cos = torch::stable::contiguous(cos_), sin = torch::stable::contiguous(sin_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  const geo::RowMap map = geo::rows_of("rope_apply", x, "cos", cos, 1).map<geo::RowMap>();
  const int64_t pairs = x.size(-1) / 2, count = x.numel() / 2;
  const auto launch = [&]<class S, class T>(S sign, T) {
    const auto at = [](const Tensor& t) { return static_cast<const T*>(t.data_ptr()); };
    rope_kernel<<<geo::blocks(count, THREADS), THREADS, 0, geo::current_stream(x)>>>(at(x), at(cos), at(sin), static_cast<T*>(y.data_ptr()),
                                                                                     count, pairs, half, inverse ? -sign : sign, map);
  };
  if (kind == ScalarType::Float) launch(1.0f, 0.0f);
  if (kind == ScalarType::Double) launch(1.0, 0.0);
  if (kind == ScalarType::Half) launch(1.0f, torch::headeronly::Half());
  if (kind == ScalarType::BFloat16) launch(1.0f, torch::headeronly::BFloat16());
  geo::check_launch("rope_apply");
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("rope_apply", TORCH_BOX(&rope_cuda)); }
