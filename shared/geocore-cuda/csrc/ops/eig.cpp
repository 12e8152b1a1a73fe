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
  const int n = geo::check_order("sym_eig", "A", A_, 2, 32);
  const bool wide = geo::is_double(A_, "sym_eig");
  const Tensor A = torch::stable::contiguous(A_);
  Tensor vectors = torch::stable::new_empty(A, A.sizes()), values = torch::stable::new_empty(A, geo::with_trailing(A, {n, n}, {n}));
  if (A.numel() == 0) return {values, vectors};
  if (wide)
    over<double>(A, values, vectors, n, GEO_BEST(sym_eig_f64));
  else
    over<float>(A, values, vectors, n, GEO_BEST(sym_eig_f32));
  return {values, vectors};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { m.impl("sym_eig", TORCH_BOX(&sym_eig_cpu)); }
