#include "ops/rows.h"

#include "ops/common.h"

#define GEO_ROPE(suffix)                                                                                                                   \
  GEO_DECLARE(void rope_##suffix(const void*, const void*, const void*, void*, int64_t, int64_t, int64_t, bool, bool, int, const int64_t*, \
                                 const int64_t*))
GEO_ROPE(f32)
GEO_ROPE(f64)
GEO_ROPE(bf16)

namespace {

using geo::ScalarType;
using geo::Tensor;

auto kernel_of(ScalarType kind) {
  if (kind == ScalarType::Float) return GEO_BEST(rope_f32);
  if (kind == ScalarType::Double) return GEO_BEST(rope_f64);
  STD_TORCH_CHECK(kind == ScalarType::BFloat16, "rope_apply: expected float32, float64 or bfloat16");
  return GEO_BEST(rope_bf16);
}

Tensor rope_cpu(const Tensor& x_, const Tensor& cos_, const Tensor& sin_, bool half, bool inverse) {
  geo::check_rope(x_, cos_, sin_);
  const auto kernel = kernel_of(x_.scalar_type());
  const Tensor x = torch::stable::contiguous(x_), cos = torch::stable::contiguous(cos_), sin = torch::stable::contiguous(sin_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  const geo::Rows map = geo::rows_of("rope_apply", x, "cos", cos, 1);
  const int64_t pairs = x.size(-1) / 2, rows = x.numel() / (2 * pairs);
  const int dims = static_cast<int>(map.size.size());
  const void *a = x.data_ptr(), *c = cos.data_ptr(), *s = sin.data_ptr();
  void* out = y.data_ptr();
  torch::stable::parallel_for(0, rows, geo::grain(pairs / 4), [&](int64_t begin, int64_t end) {
    kernel(a, c, s, out, begin, end, pairs, half, inverse, dims, map.size.data(), map.stride.data());
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { m.impl("rope_apply", TORCH_BOX(&rope_cpu)); }
