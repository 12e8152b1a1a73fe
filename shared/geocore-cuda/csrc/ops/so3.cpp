#include "ops/maps.h"

#include "ops/common.h"

#define GEO_KERNEL(name, ...)                                                          \
  GEO_DECLARE(void name##_f32(const float* const*, float*, int64_t, int64_t))          \
  GEO_DECLARE(void name##_f64(const double* const*, double*, int64_t, int64_t))        \
  template <>                                                                          \
  struct Kernels<geo::Map_##name> {                                                    \
    static auto pick(float) { return GEO_BEST(name##_f32); }                           \
    static auto pick(double) { return GEO_BEST(name##_f64); }                          \
  };

template <class Map>
struct Kernels;
GEO_MAPS(GEO_KERNEL, GEO_KERNEL, GEO_KERNEL)

namespace {

using geo::Tensor;

template <class Map, class T>
void over(const std::vector<Tensor>& x, Tensor& y, int64_t n) {
  const auto kernel = Kernels<Map>::pick(T());
  const T* from[3];
  for (size_t i = 0; i < x.size(); ++i) from[i] = x[i].const_data_ptr<T>();
  T* to = y.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, n, geo::grain(static_cast<int64_t>(sizeof(T) * (2 + x.size() / 2))), [&](int64_t begin, int64_t end) {
    kernel(from, to, begin, end);
  });
}

template <class Map>
Tensor run(const char* op, std::vector<Tensor> x) {
  const int64_t n = geo::check_map<Map>(op, x);
  const bool wide = geo::is_double(x[0], op);
  Tensor y = geo::prepare<Map>(x);
  if (n == 0) return y;
  wide ? over<Map, double>(x, y, n) : over<Map, float>(x, y, n);
  return y;
}

}  // namespace

GEO_MAPS(GEO_OP_OF_ONE, GEO_OP_OF_TWO, GEO_OP_OF_THREE)
STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) { GEO_MAPS(GEO_REGISTER, GEO_REGISTER, GEO_REGISTER) }
