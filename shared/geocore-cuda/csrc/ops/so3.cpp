#include "ops/common.h"

namespace {

using geo::Tensor;
using Dims = std::vector<int64_t>;

template <class T>
using Unary = void (*)(const T*, T*, int64_t, int64_t);
template <class T>
using Binary = void (*)(const T*, const T*, T*, int64_t, int64_t);

// Items whose trailing dimensions are `in`, turned into items of trailing dimensions `out`.
Tensor unary(const char* op, const Tensor& x_, const Dims& in, const Dims& out, Unary<float> f32, Unary<double> f64) {
  geo::check_trailing(op, x_, in);
  const bool wide = geo::is_double(x_, op);
  const Tensor x = torch::stable::contiguous(x_);
  Tensor y = torch::stable::new_empty(x, geo::with_trailing(x, in, out));
  const int64_t n = x.numel() / geo::product(in);
  if (n == 0) return y;
  if (wide) {
    const double* from = x.const_data_ptr<double>();
    double* to = y.mutable_data_ptr<double>();
    torch::stable::parallel_for(0, n, geo::grain(20), [&](int64_t begin, int64_t end) { f64(from, to, begin, end); });
  } else {
    const float* from = x.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, n, geo::grain(8), [&](int64_t begin, int64_t end) { f32(from, to, begin, end); });
  }
  return y;
}

Tensor binary(const char* op, const Tensor& a_, const Tensor& b_, const Dims& left, const Dims& right, const Dims& out, Binary<float> f32,
              Binary<double> f64) {
  geo::check_trailing(op, a_, left);
  geo::check_trailing(op, b_, right);
  const int64_t n = a_.numel() / geo::product(left);
  STD_TORCH_CHECK(n == b_.numel() / geo::product(right), op, ": both arguments must hold the same number of items");
  STD_TORCH_CHECK(a_.scalar_type() == b_.scalar_type(), op, ": both arguments must have one dtype");
  const bool wide = geo::is_double(a_, op);
  const Tensor a = torch::stable::contiguous(a_), b = torch::stable::contiguous(b_);
  Tensor y = torch::stable::new_empty(a, geo::with_trailing(a, left, out));
  if (n == 0) return y;
  if (wide) {
    const double *x = a.const_data_ptr<double>(), *z = b.const_data_ptr<double>();
    double* to = y.mutable_data_ptr<double>();
    torch::stable::parallel_for(0, n, geo::grain(25), [&](int64_t begin, int64_t end) { f64(x, z, to, begin, end); });
  } else {
    const float *x = a.const_data_ptr<float>(), *z = b.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, n, geo::grain(10), [&](int64_t begin, int64_t end) { f32(x, z, to, begin, end); });
  }
  return y;
}

}  // namespace

#define GEO_UNARY_OP(name, ...)                                        \
  GEO_DECLARE(void name##_f32(const float*, float*, int64_t, int64_t)) \
  GEO_DECLARE(void name##_f64(const double*, double*, int64_t, int64_t)) \
  static Tensor name##_cpu(const Tensor& x) { return unary(#name, x, __VA_ARGS__, GEO_BEST(name##_f32), GEO_BEST(name##_f64)); }
#define GEO_BINARY_OP(name, ...)                                                      \
  GEO_DECLARE(void name##_f32(const float*, const float*, float*, int64_t, int64_t))   \
  GEO_DECLARE(void name##_f64(const double*, const double*, double*, int64_t, int64_t)) \
  static Tensor name##_cpu(const Tensor& a, const Tensor& b) { return binary(#name, a, b, __VA_ARGS__, GEO_BEST(name##_f32), GEO_BEST(name##_f64)); }

GEO_UNARY_OP(so3_exp, Dims{3}, Dims{3, 3})
GEO_UNARY_OP(so3_log, Dims{3, 3}, Dims{3})
GEO_UNARY_OP(quat_to_matrix, Dims{4}, Dims{3, 3})
GEO_UNARY_OP(matrix_to_quat, Dims{3, 3}, Dims{4})
GEO_BINARY_OP(so3_exp_backward, Dims{3}, Dims{3, 3}, Dims{3})
GEO_BINARY_OP(so3_log_backward, Dims{3, 3}, Dims{3}, Dims{3, 3})
GEO_BINARY_OP(quat_to_matrix_backward, Dims{4}, Dims{3, 3}, Dims{4})
GEO_BINARY_OP(matrix_to_quat_backward, Dims{3, 3}, Dims{4}, Dims{3, 3})
GEO_BINARY_OP(quat_mul, Dims{4}, Dims{4}, Dims{4})

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("so3_exp", TORCH_BOX(&so3_exp_cpu));
  m.impl("so3_log", TORCH_BOX(&so3_log_cpu));
  m.impl("quat_to_matrix", TORCH_BOX(&quat_to_matrix_cpu));
  m.impl("matrix_to_quat", TORCH_BOX(&matrix_to_quat_cpu));
  m.impl("so3_exp_backward", TORCH_BOX(&so3_exp_backward_cpu));
  m.impl("so3_log_backward", TORCH_BOX(&so3_log_backward_cpu));
  m.impl("quat_to_matrix_backward", TORCH_BOX(&quat_to_matrix_backward_cpu));
  m.impl("matrix_to_quat_backward", TORCH_BOX(&matrix_to_quat_backward_cpu));
  m.impl("quat_mul", TORCH_BOX(&quat_mul_cpu));
}
