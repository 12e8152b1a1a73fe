#include "ops/maps.h"

#include "cuda/common.cuh"

namespace {

using geo::Tensor;
constexpr int THREADS = 128;

template <class Map, class T>
__global__ void items_kernel(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ c, T* __restrict__ y, int64_t n) {
  constexpr int A = Map::first, B = Map::second, C = Map::third;
  for (GEO_GRID_LOOP(i, n)) {
    T in[A + B + C], out[Map::out];
#pragma unroll
    for (int k = 0; k < A; ++k) in[k] = a[A * i + k];
#pragma unroll
    for (int k = 0; k < B; ++k) in[A + k] = b[B * i + k];
#pragma unroll
    for (int k = 0; k < C; ++k) in[A + B + k] = c[C * i + k];
    Map::run(in, out);
#pragma unroll
    for (int k = 0; k < Map::out; ++k) y[Map::out * i + k] = out[k];
  }
}

template <class Map, class T>
void launch(const std::vector<Tensor>& x, Tensor& y, int64_t n) {
  const T* from[3] = {};
  for (size_t i = 0; i < x.size(); ++i) from[i] = x[i].const_data_ptr<T>();
  items_kernel<Map><<<geo::blocks(n, THREADS), THREADS, 0, geo::current_stream(y)>>>(from[0], from[1], from[2], y.mutable_data_ptr<T>(), n);
}

template <class Map>
Tensor run(const char* op, std::vector<Tensor> x) {
  const int64_t n = geo::check_map<Map>(op, x);
  const bool wide = geo::is_double(x[0], op);
  const torch::stable::accelerator::DeviceGuard guard(x[0].get_device_index());
  Tensor y = geo::prepare<Map>(x);
  if (n == 0) return y;  // an empty grid is a launch error
  wide ? launch<Map, double>(x, y, n) : launch<Map, float>(x, y, n);
  geo::check_launch(op);
  return y;
}

}  // namespace

GEO_MAPS(GEO_OP_OF_ONE, GEO_OP_OF_TWO, GEO_OP_OF_THREE)
STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { GEO_MAPS(GEO_REGISTER, GEO_REGISTER, GEO_REGISTER) }
