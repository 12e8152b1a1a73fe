#include "ops/rows.h"

#include "ops/common.h"

GEO_DECLARE(void rope_f32(const float*, const float*, const float*, float*, int64_t, int64_t, int64_t, bool, bool, int, const int64_t*, const int64_t*))
GEO_DECLARE(void rope_f64(const double*, const double*, const double*, double*, int64_t, int64_t, int64_t, bool, bool, int, const int64_t*,
                          const int64_t*))

namespace {

using geo::Tensor;

Tensor rope_cpu(const Tensor& x_, const Tensor& cos_, const Tensor& sin_, bool half, bool inverse) {
  geo::check_rope(x_, cos_, sin_);
  const bool wide = geo::is_double(x_, "rope_apply");
  const Tensor x = torch::stable::contiguous(x_), cos = torch::stable::contiguous(cos_), sin = torch::stable::contiguous(sin_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  const geo::Rows map = geo::rows_of("rope_apply", x, "cos", cos, 1);
  const int64_t pairs = x.size(-1) / 2, rows = x.numel() / (2 * pairs), grain = geo::grain(pairs / 4);
  const int dims = static_cast<int>(map.size.size());
  if (wide) {
    const auto kernel = GEO_BEST(rope_f64);
    const double *a = x.const_data_ptr<double>(), *c = cos.const_data_ptr<double>(), *s = sin.const_data_ptr<double>();
    double* out = y.mutable_data_ptr<double>();
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      kernel(a, c, s, out, begin, end, pairs, half, inverse, dims, map.size.data(), map.stride.data());
    });
  } else {
    const auto kernel = GEO_BEST(rope_f32);
    const float *a = x.const_data_ptr<float>(), *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
    float* out = y.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      kernel(a, c, s, out, begin, end, pairs, half, inverse, dims, map.size.data(), map.stride.data());
    });
  }
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { m.impl("rope_apply", TORCH_BOX(&rope_cpu)); }
