#include "ops/common.h"

GEO_DECLARE(void small_expm_f32(const float*, float*, int, int64_t, int64_t))
GEO_DECLARE(void small_expm_f64(const double*, double*, int, int64_t, int64_t))
GEO_DECLARE(void small_expm_backward_f32(const float*, const float*, float*, int, int64_t, int64_t))
GEO_DECLARE(void small_expm_backward_f64(const double*, const double*, double*, int, int64_t, int64_t))

namespace {

using geo::Tensor;

template <class T>
void values(const Tensor& A, Tensor& out, int n, void (*kernel)(const T*, T*, int, int64_t, int64_t)) {
  const T* from = A.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, A.numel() / (n * n), geo::grain(n * n * n), [&](int64_t begin, int64_t end) {
    kernel(from, to, n, begin, end);
  });
}

template <class T>
void slopes(const Tensor& A, const Tensor& G, Tensor& out, int n, void (*kernel)(const T*, const T*, T*, int, int64_t, int64_t)) {
  const T *from = A.const_data_ptr<T>(), *along = G.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, A.numel() / (n * n), geo::grain(3 * n * n * n), [&](int64_t begin, int64_t end) {
    kernel(from, along, to, n, begin, end);
  });
}

Tensor small_expm_cpu(const Tensor& A_) {
  const int n = geo::check_order("small_expm", "A", A_, 1, 16);
  const bool wide = geo::is_double(A_, "small_expm");
  const Tensor A = torch::stable::contiguous(A_);
  Tensor out = torch::stable::new_empty(A, geo::shape_of(A));
  if (A.numel() == 0) return out;
  if (wide)
    values<double>(A, out, n, GEO_BEST(small_expm_f64));
  else
    values<float>(A, out, n, GEO_BEST(small_expm_f32));
  return out;
}

Tensor small_expm_backward_cpu(const Tensor& A_, const Tensor& G_) {
  const int n = geo::check_order("small_expm_backward", "A", A_, 1, 16);
  const bool wide = geo::is_double(A_, "small_expm_backward");
  geo::check_like("small_expm_backward", "G", G_, "A", A_);
  const Tensor A = torch::stable::contiguous(A_), G = torch::stable::contiguous(G_);
  Tensor out = torch::stable::new_empty(A, geo::shape_of(A));
  if (A.numel() == 0) return out;
  if (wide)
    slopes<double>(A, G, out, n, GEO_BEST(small_expm_backward_f64));
  else
    slopes<float>(A, G, out, n, GEO_BEST(small_expm_backward_f32));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("small_expm", TORCH_BOX(&small_expm_cpu));
  m.impl("small_expm_backward", TORCH_BOX(&small_expm_backward_cpu));
}
