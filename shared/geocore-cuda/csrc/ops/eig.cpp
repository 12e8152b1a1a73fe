#include "ops/common.h"

GEO_DECLARE(void sym_eig_f32(const float*, float*, float*, int, int64_t, int64_t))
GEO_DECLARE(void sym_eig_f64(const double*, double*, double*, int, int64_t, int64_t))

namespace {

using geo::Tensor;

template <class T>
void over(const Tensor& A, Tensor& values, Tensor& vectors, int n, void (*kernel)(const T*, T*, T*, int, int64_t, int64_t)) {
  const T* from = A.const_data_ptr<T>();
  T *w = values.mutable_data_ptr<T>(), *v = vectors.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, A.numel() / (n * n), geo::grain(3 * n * n * n), [&](int64_t begin, int64_t end) {
    kernel(from, w, v, n, begin, end);
  });
}

std::tuple<Tensor, Tensor> sym_eig_cpu(const Tensor& A_) {
  const int64_t n = A_.dim() < 2 ? 0 : A_.size(-1);
  STD_TORCH_CHECK(n >= 2 && n <= 32 && A_.size(-2) == n, "sym_eig: expected A of shape (..., n, n) with n from 2 to 32");
  const bool wide = geo::is_double(A_, "sym_eig");
  const Tensor A = torch::stable::contiguous(A_);
  auto shape = geo::shape_of(A);
  Tensor vectors = torch::stable::new_empty(A, shape);
  shape.pop_back();
  Tensor values = torch::stable::new_empty(A, shape);
  if (A.numel() == 0) return {values, vectors};
  if (wide)
    over<double>(A, values, vectors, static_cast<int>(n), GEO_BEST(sym_eig_f64));
  else
    over<float>(A, values, vectors, static_cast<int>(n), GEO_BEST(sym_eig_f32));
  return {values, vectors};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { m.impl("sym_eig", TORCH_BOX(&sym_eig_cpu)); }
