#include "ops/blocks.h"

#include "cuda/common.cuh"
#include "math/rows.h"

namespace {

using geo::Tensor;
constexpr int THREADS = 256;

// One thread for each entry of the result.
template <class T>
__global__ void rotate_kernel(const T* __restrict__ x, const T* __restrict__ blocks, T* __restrict__ y, int64_t count, int64_t m, int k,
                              bool transpose, geo::RowMap map) {
  const int64_t down = transpose ? 1 : k, across = transpose ? k : 1;
  for (GEO_GRID_LOOP(i, count)) {
    const int64_t block = i / k, row = block / m;
    const T* B = blocks + ((map.at(row) * m + block % m) * k) * k + (i % k) * down;
    T sum = T(0);
    for (int c = 0; c < k; ++c) sum += B[c * across] * x[block * k + c];
    y[i] = sum;
  }
}

template <class T>
void launch(const Tensor& x, const Tensor& blocks, Tensor& y, geo::Blocks size, bool transpose, const geo::RowMap& map) {
  const int64_t count = x.numel();
  rotate_kernel<<<geo::blocks(count, THREADS), THREADS, 0, geo::current_stream(x)>>>(
      x.const_data_ptr<T>(), blocks.const_data_ptr<T>(), y.mutable_data_ptr<T>(), count, size.m, static_cast<int>(size.k), transpose, map);
  geo::check_launch("block_rotate");
}

Tensor block_rotate_cuda(const Tensor& x_, const Tensor& blocks_, bool transpose) {
  const geo::Blocks size = geo::check_blocks("block_rotate", x_, blocks_);
  const bool wide = geo::is_double(x_, "block_rotate");
  const geo::RowMap map = geo::rows_of("block_rotate", x_, "blocks", blocks_, 3).map<geo::RowMap>();
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = torch::stable::contiguous(x_), blocks = torch::stable::contiguous(blocks_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  wide ? launch<double>(x, blocks, y, size, transpose, map) : launch<float>(x, blocks, y, size, transpose, map);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("block_rotate", TORCH_BOX(&block_rotate_cuda)); }
