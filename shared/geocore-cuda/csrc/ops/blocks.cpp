#include "ops/blocks.h"

#include "ops/common.h"

#define GEO_BLOCKS(T, suffix)                                                                                                     \
  GEO_DECLARE(void block_rotate_##suffix(const T*, const T*, T*, int64_t, int64_t, int64_t, int, bool, int, const int64_t*,       \
                                         const int64_t*))                                                                         \
  GEO_DECLARE(void block_outer_##suffix(const T*, const T*, T*, int64_t, int64_t, int64_t, int, int64_t, int64_t, bool, int,      \
                                        const int64_t*, const int64_t*))                                                          \
  template <>                                                                                                                     \
  struct Kernels<T> {                                                                                                             \
    static auto rotate() { return GEO_BEST(block_rotate_##suffix); }                                                              \
    static auto outer() { return GEO_BEST(block_outer_##suffix); }                                                                \
  };

template <class T>
struct Kernels;
GEO_BLOCKS(float, f32)
GEO_BLOCKS(double, f64)

namespace {

using geo::Tensor;

template <class T>
void rotate(const Tensor& x, const Tensor& blocks, Tensor& y, geo::Blocks size, bool transpose, const geo::Rows& map) {
  const T *from = x.const_data_ptr<T>(), *B = blocks.const_data_ptr<T>();
  T* to = y.mutable_data_ptr<T>();
  const auto kernel = Kernels<T>::rotate();
  const int dims = static_cast<int>(map.size.size()), k = static_cast<int>(size.k);
  torch::stable::parallel_for(0, x.numel() / (size.m * k), geo::grain(size.m * k / 4), [&](int64_t begin, int64_t end) {
    kernel(from, B, to, begin, end, size.m, k, transpose, dims, map.size.data(), map.stride.data());
  });
}

Tensor block_rotate_cpu(const Tensor& x_, const Tensor& blocks_, bool transpose) {
  const geo::Blocks size = geo::check_blocks("block_rotate", x_, blocks_);
  const bool wide = geo::is_double(x_, "block_rotate");
  const geo::Rows map = geo::rows_of("block_rotate", x_, "blocks", blocks_, 3);
  const Tensor x = torch::stable::contiguous(x_);
  Tensor y = torch::stable::new_empty(x, geo::shape_of(x));
  if (x.numel() == 0) return y;
  // The transposed product reads along the rows of a block: worth turning them when blocks are used again.
  Tensor blocks = blocks_;
  if (!transpose && x.numel() > blocks.numel() / size.k) blocks = torch::stable::transpose(blocks, -1, -2), transpose = true;
  blocks = torch::stable::contiguous(blocks);
  wide ? rotate<double>(x, blocks, y, size, transpose, map) : rotate<float>(x, blocks, y, size, transpose, map);
  return y;
}

template <class T>
void outer(const Tensor& x, const Tensor& g, Tensor& out, geo::Blocks size, bool own, const geo::Rows& map) {
  const T *from = x.const_data_ptr<T>(), *given = g.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const auto kernel = Kernels<T>::outer();
  const int dims = static_cast<int>(map.size.size()), k = static_cast<int>(size.k);
  const int64_t rows = x.numel() / (size.m * k);
  if (own) {
    torch::stable::parallel_for(0, rows, geo::grain(size.m * k / 2), [&](int64_t begin, int64_t end) {
      kernel(from, given, to, begin, end, size.m, k, 0, size.m, true, dims, map.size.data(), map.stride.data());
    });
    return;
  }
  torch::stable::parallel_for(0, size.m, 20000 / rows + 1, [&](int64_t first, int64_t last) {  // always in the order of the rows
    kernel(from, given, to, 0, rows, size.m, k, first, last, false, dims, map.size.data(), map.stride.data());
  });
}

Tensor block_rotate_backward_cpu(const Tensor& x_, const Tensor& g_, const Tensor& blocks) {
  const geo::Blocks size = geo::check_blocks("block_rotate_backward", x_, blocks);
  geo::check_like("block_rotate_backward", "g", g_, "x", x_);
  const bool wide = geo::is_double(x_, "block_rotate_backward");
  const geo::Rows map = geo::rows_of("block_rotate_backward", x_, "blocks", blocks, 3);
  const Tensor x = torch::stable::contiguous(x_), g = torch::stable::contiguous(g_);
  const bool own = blocks.numel() == x.numel() * size.k;  // no block is shared: rows are independent
  Tensor out = own ? torch::stable::new_empty(x, geo::shape_of(blocks)) : torch::stable::new_zeros(x, geo::shape_of(blocks));
  if (x.numel() == 0) return out;
  wide ? outer<double>(x, g, out, size, own, map) : outer<float>(x, g, out, size, own, map);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("block_rotate", TORCH_BOX(&block_rotate_cpu));
  m.impl("block_rotate_backward", TORCH_BOX(&block_rotate_backward_cpu));
}
