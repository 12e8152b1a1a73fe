#include "ops/common.h"

GEO_DECLARE(void unit_solve_f32(const float*, const float*, float*, int64_t, int64_t, int64_t, int64_t, bool, bool))
GEO_DECLARE(void unit_solve_f64(const double*, const double*, double*, int64_t, int64_t, int64_t, int64_t, bool, bool))

namespace {

using geo::Tensor;

Tensor unit_solve_cpu(const Tensor& A_, const Tensor& B_, bool upper, bool transpose) {
  geo::check_systems(A_, B_);
  const bool wide = geo::is_double(A_, "unit_solve");
  const Tensor A = torch::stable::contiguous(A_), B = torch::stable::contiguous(B_);
  Tensor X = torch::stable::new_empty(B, geo::shape_of(B));
  if (X.numel() == 0) return X;
  const int64_t m = B.size(-2), d = B.size(-1), count = B.numel() / (m * d), grain = geo::grain(m * m * d / 32);
  if (wide) {
    const auto kernel = GEO_BEST(unit_solve_f64);
    const double *a = A.const_data_ptr<double>(), *b = B.const_data_ptr<double>();
    double* x = X.mutable_data_ptr<double>();
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { kernel(a, b, x, begin, end, m, d, upper, transpose); });
  } else {
    const auto kernel = GEO_BEST(unit_solve_f32);
    const float *a = A.const_data_ptr<float>(), *b = B.const_data_ptr<float>();
    float* x = X.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { kernel(a, b, x, begin, end, m, d, upper, transpose); });
  }
  return X;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { m.impl("unit_solve", TORCH_BOX(&unit_solve_cpu)); }
