#include "ops/common.h"

GEO_DECLARE(void procrustes3_f32(const float*, float*, float*, int64_t, int64_t))
GEO_DECLARE(void procrustes3_f64(const double*, double*, double*, int64_t, int64_t))
GEO_DECLARE(void procrustes3_backward_f32(const float*, const float*, float*, int64_t, int64_t))
GEO_DECLARE(void procrustes3_backward_f64(const double*, const double*, double*, int64_t, int64_t))
GEO_DECLARE(void svd3_f32(const float*, float*, float*, float*, int64_t, int64_t))
GEO_DECLARE(void svd3_f64(const double*, double*, double*, double*, int64_t, int64_t))

namespace {

using geo::Tensor;

template <class T>
void forward(const Tensor& M, Tensor& R, Tensor& s, void (*kernel)(const T*, T*, T*, int64_t, int64_t)) {
  const T* from = M.const_data_ptr<T>();
  T *r = R.mutable_data_ptr<T>(), *values = s.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, M.numel() / 9, geo::grain(100), [&](int64_t begin, int64_t end) { kernel(from, r, values, begin, end); });
}

template <class T>
void gradient(const Tensor& M, const Tensor& g, Tensor& out, void (*kernel)(const T*, const T*, T*, int64_t, int64_t)) {
  const T *from = M.const_data_ptr<T>(), *given = g.const_data_ptr<T>();
  T* found = out.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, M.numel() / 9, geo::grain(120), [&](int64_t begin, int64_t end) { kernel(from, given, found, begin, end); });
}

std::tuple<Tensor, Tensor> procrustes3_cpu(const Tensor& M_) {
  geo::check_order("procrustes3", "M", M_, 3, 3);
  const bool wide = geo::is_double(M_, "procrustes3");
  const Tensor M = torch::stable::contiguous(M_);
  Tensor R = torch::stable::new_empty(M, M.sizes()), s = torch::stable::new_empty(M, geo::with_trailing(M, {3, 3}, {3}));
  if (M.numel() == 0) return {R, s};
  if (wide)
    forward<double>(M, R, s, GEO_BEST(procrustes3_f64));
  else
    forward<float>(M, R, s, GEO_BEST(procrustes3_f32));
  return {R, s};
}

Tensor procrustes3_backward_cpu(const Tensor& M_, const Tensor& g_) {
  geo::check_order("procrustes3_backward", "M", M_, 3, 3);
  geo::check_like("procrustes3_backward", "g", g_, "M", M_);
  const bool wide = geo::is_double(M_, "procrustes3_backward");
  const Tensor M = torch::stable::contiguous(M_), g = torch::stable::contiguous(g_);
  Tensor out = torch::stable::new_empty(M, geo::shape_of(M));
  if (M.numel() == 0) return out;
  if (wide)
    gradient<double>(M, g, out, GEO_BEST(procrustes3_backward_f64));
  else
    gradient<float>(M, g, out, GEO_BEST(procrustes3_backward_f32));
  return out;
}

template <class T>
void factors(const Tensor& M, Tensor& U, Tensor& s, Tensor& Vh, void (*kernel)(const T*, T*, T*, T*, int64_t, int64_t)) {
  const T* from = M.const_data_ptr<T>();
  T *u = U.mutable_data_ptr<T>(), *values = s.mutable_data_ptr<T>(), *v = Vh.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, M.numel() / 9, geo::grain(100), [&](int64_t begin, int64_t end) { kernel(from, u, values, v, begin, end); });
}

std::tuple<Tensor, Tensor, Tensor> svd3_cpu(const Tensor& M_) {
  geo::check_order("svd3", "M", M_, 3, 3);
  const bool wide = geo::is_double(M_, "svd3");
  const Tensor M = torch::stable::contiguous(M_);
  Tensor U = torch::stable::new_empty(M, M.sizes()), Vh = torch::stable::new_empty(M, M.sizes());
  Tensor s = torch::stable::new_empty(M, geo::with_trailing(M, {3, 3}, {3}));
  if (M.numel() == 0) return {U, s, Vh};
  if (wide)
    factors<double>(M, U, s, Vh, GEO_BEST(svd3_f64));
  else
    factors<float>(M, U, s, Vh, GEO_BEST(svd3_f32));
  return {U, s, Vh};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("procrustes3", TORCH_BOX(&procrustes3_cpu));
  m.impl("procrustes3_backward", TORCH_BOX(&procrustes3_backward_cpu));
  m.impl("svd3", TORCH_BOX(&svd3_cpu));
}
