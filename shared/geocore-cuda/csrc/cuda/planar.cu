// Overlap of oriented boxes on CUDA: one thread per pair, and greedy suppression by bit masks of 64 boxes.
#include "cuda/boxes.cuh"
#include "cuda/common.cuh"
#include "ops/boxes.h"

#include <limits>

namespace {

using geo::Box;
using geo::Kind;
using geo::box_at;
using geo::circles_meet;
using geo::ScalarType;
using geo::Tensor;
using Word = unsigned long long;

constexpr int THREADS = 128;
constexpr int TILE = 64;
constexpr int64_t CHUNK = 4096;  // rows of the mask at a time: n / 2 kB each

template <class T>
__device__ void store(T* boxes, int64_t i, const Box<T>& box) {
  T* p = boxes + 5 * i;
  p[0] = box.x, p[1] = box.y, p[2] = box.w, p[3] = box.h, p[4] = box.t;
}

template <class T>
__global__ void pairs(const T* a, const T* b, T* out, int64_t n, Kind kind) {
  for (GEO_GRID_LOOP(i, n)) {
    const Box<T> first = box_at(a, i), second = box_at(b, i);
    const T shared = geo::intersection(first, second);
    out[i] = kind == geo::AREA ? shared : geo::ratio_of(first, second, shared, kind == geo::OF_FIRST);
  }
}

template <class T>
__global__ void pairs_gradient(const T* a, const T* b, const T* weight, T* ga, T* gb, int64_t n, Kind kind) {
  for (GEO_GRID_LOOP(i, n)) {
    const Box<T> first = box_at(a, i), second = box_at(b, i);
    Box<T> g1, g2;
    if (kind == geo::AREA)
      geo::intersection_gradient(first, second, weight[i], g1, g2);
    else
      geo::ratio_gradient(first, second, weight[i], kind == geo::OF_FIRST, g1, g2);
    store(ga, i, g1);
    store(gb, i, g2);
  }
}

template <class T>
__global__ void table(const T* a, const T* b, T* out, int64_t n, int64_t m, int64_t total, bool of_first) {
  for (GEO_GRID_LOOP(i, total)) {
    const int64_t row = i / m;
    const Box<T> first = box_at(a, row), second = box_at(b, row / n * m + i % m);
    out[i] = circles_meet(first, second) ? geo::held_ratio(first, second, of_first) : T(0);
  }
}

// Bit c of word w in the row of box `start + r`: whether that box removes box 64 w + c, which comes after it.
template <class T>
__global__ void masks(const T* boxes, const int64_t* kinds, int64_t n, int64_t start, int64_t rows, int64_t words, T threshold, Word* mask) {
  __shared__ Box<T> columns[TILE];
  __shared__ int64_t kind_of[TILE];
  const int64_t word = blockIdx.x, r = static_cast<int64_t>(blockIdx.y) * TILE + threadIdx.x, i = start + r;
  const int64_t j = word * TILE + threadIdx.x;
  if (j < n) {
    columns[threadIdx.x] = box_at(boxes, j);
    kind_of[threadIdx.x] = kinds ? kinds[j] : 0;
  }
  __syncthreads();
  if (r >= rows) return;
  Word bits = 0;
  const Box<T> box = box_at(boxes, i);
  const int64_t kind = kinds ? kinds[i] : 0, left = n - word * TILE;
  for (int c = 0; c < TILE && c < left; ++c) {
    if (word * TILE + c <= i || kind_of[c] != kind || !circles_meet(box, columns[c])) continue;
    if (geo::held_ratio(box, columns[c], false) > threshold) bits |= Word(1) << c;
  }
  mask[r * words + word] = bits;
}

// One block walks down the rows; `removed` and `state` (kept so far, finished) outlive the chunk.
__global__ void walk(const Word* mask, int64_t start, int64_t rows, int64_t words, int64_t limit, Word* removed, int64_t* kept, int64_t* count) {
  int64_t mine = *count;
  __syncthreads();
  for (int64_t r = 0; r < rows && mine < limit; ++r) {
    const int64_t i = start + r;
    if (removed[i / TILE] >> (i % TILE) & 1) continue;  // the same answer in every thread: written before the last barrier
    if (threadIdx.x == 0) kept[mine] = i;
    ++mine;
    __syncthreads();
    for (int64_t w = i / TILE + threadIdx.x; w < words; w += blockDim.x) removed[w] |= mask[r * words + w];
    __syncthreads();
  }
  if (threadIdx.x == 0) *count = mine;
}

Tensor measure(const Tensor& a, const Tensor& b, Kind kind, const char* op) {
  const bool wide = geo::check_pairs(a, b, op);
  const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b);
  auto shape = geo::shape_of(a);
  shape.pop_back();
  Tensor out = torch::stable::new_empty(x, shape);
  const int64_t n = out.numel();
  if (n == 0) return out;
  const auto launch = [&]<class T>(T) {
    pairs<T><<<geo::blocks(n, THREADS), THREADS, 0, geo::current_stream(x)>>>(x.const_data_ptr<T>(), y.const_data_ptr<T>(),
                                                                             out.mutable_data_ptr<T>(), n, kind);
  };
  wide ? launch(0.0) : launch(0.0f);
  geo::check_launch(op);
  return out;
}

std::tuple<Tensor, Tensor> gradient(const Tensor& a, const Tensor& b, const Tensor& grad, Kind kind, const char* op) {
  const bool wide = geo::check_pairs(a, b, op);
  auto shape = geo::shape_of(a);
  shape.pop_back();
  STD_TORCH_CHECK(geo::shape_of(grad) == shape && grad.scalar_type() == a.scalar_type(), op,
                  ": expected grad with one number per pair, of the dtype of a");
  const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b), g = torch::stable::contiguous(grad);
  Tensor ga = torch::stable::new_empty(x, x.sizes()), gb = torch::stable::new_empty(y, y.sizes());
  const int64_t n = g.numel();
  if (n == 0) return {ga, gb};
  const auto launch = [&]<class T>(T) {
    pairs_gradient<T><<<geo::blocks(n, THREADS), THREADS, 0, geo::current_stream(x)>>>(
        x.const_data_ptr<T>(), y.const_data_ptr<T>(), g.const_data_ptr<T>(), ga.mutable_data_ptr<T>(), gb.mutable_data_ptr<T>(), n, kind);
  };
  wide ? launch(0.0) : launch(0.0f);
  geo::check_launch(op);
  return {ga, gb};
}

Tensor obb_intersection_cuda(const Tensor& a, const Tensor& b) { return measure(a, b, geo::AREA, "obb_intersection"); }
Tensor obb_ratio_cuda(const Tensor& a, const Tensor& b, bool of_first) { return measure(a, b, geo::kind_of(of_first), "obb_ratio"); }
std::tuple<Tensor, Tensor> obb_intersection_backward_cuda(const Tensor& a, const Tensor& b, const Tensor& grad) {
  return gradient(a, b, grad, geo::AREA, "obb_intersection_backward");
}
std::tuple<Tensor, Tensor> obb_ratio_backward_cuda(const Tensor& a, const Tensor& b, const Tensor& grad, bool of_first) {
  return gradient(a, b, grad, geo::kind_of(of_first), "obb_ratio_backward");
}

Tensor obb_iou_table_cuda(const Tensor& a, const Tensor& b, bool of_first) {
  const bool wide = geo::check_sets(a, b, 3, "obb_iou_table");
  torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b);
  const int64_t n = a.size(1), m = b.size(1);
  Tensor out = torch::stable::new_empty(x, {a.size(0), n, m});
  const int64_t total = out.numel();
  if (total == 0) return out;
  const auto launch = [&]<class T>(T) {
    table<T><<<geo::blocks(total, THREADS), THREADS, 0, geo::current_stream(x)>>>(x.const_data_ptr<T>(), y.const_data_ptr<T>(),
                                                                                 out.mutable_data_ptr<T>(), n, m, total, of_first);
  };
  wide ? launch(0.0) : launch(0.0f);
  geo::check_launch("obb_iou_table");
  return out;
}

Tensor obb_nms_cuda(const Tensor& boxes, const Tensor& kinds, double threshold, int64_t max_output) {
  const bool wide = geo::check_suppression(boxes, kinds);
  torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor x = torch::stable::contiguous(boxes), k = torch::stable::contiguous(kinds);
  const int64_t n = x.size(0), words = (n + TILE - 1) / TILE, limit = max_output < 0 ? std::numeric_limits<int64_t>::max() : max_output;
  Tensor kept = torch::stable::new_empty(x, {n}, ScalarType::Long);
  if (n == 0) return kept;
  const cudaStream_t stream = geo::current_stream(x);
  Tensor mask = torch::stable::new_empty(x, {(n < CHUNK ? n : CHUNK) * words}, ScalarType::Long);
  Tensor removed = torch::stable::new_zeros(x, {words}, ScalarType::Long), count = torch::stable::new_zeros(x, {1}, ScalarType::Long);
  Word *bits = reinterpret_cast<Word*>(mask.mutable_data_ptr<int64_t>()), *gone = reinterpret_cast<Word*>(removed.mutable_data_ptr<int64_t>());
  const int64_t* classes = k.size(0) ? k.const_data_ptr<int64_t>() : nullptr;
  for (int64_t start = 0; start < n; start += CHUNK) {
    const int64_t rows = n - start < CHUNK ? n - start : CHUNK;
    const dim3 grid(static_cast<unsigned>(words), static_cast<unsigned>((rows + TILE - 1) / TILE));
    if (wide)
      masks<double><<<grid, TILE, 0, stream>>>(x.const_data_ptr<double>(), classes, n, start, rows, words, threshold, bits);
    else
      masks<float><<<grid, TILE, 0, stream>>>(x.const_data_ptr<float>(), classes, n, start, rows, words, static_cast<float>(threshold), bits);
    geo::check_launch("obb_nms");
    walk<<<1, 256, 0, stream>>>(bits, start, rows, words, limit, gone, kept.mutable_data_ptr<int64_t>(), count.mutable_data_ptr<int64_t>());
    geo::check_launch("obb_nms");
  }
  int64_t found = 0;
  cudaError_t error = cudaMemcpyAsync(&found, count.const_data_ptr<int64_t>(), sizeof found, cudaMemcpyDeviceToHost, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  STD_TORCH_CHECK(error == cudaSuccess, "obb_nms: cannot read the number of boxes kept: ", cudaGetErrorString(error));
  return torch::stable::clone(torch::stable::narrow(kept, 0, 0, found));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) {
  m.impl("obb_intersection", TORCH_BOX(&obb_intersection_cuda));
  m.impl("obb_intersection_backward", TORCH_BOX(&obb_intersection_backward_cuda));
  m.impl("obb_ratio", TORCH_BOX(&obb_ratio_cuda));
  m.impl("obb_ratio_backward", TORCH_BOX(&obb_ratio_backward_cuda));
  m.impl("obb_iou_table", TORCH_BOX(&obb_iou_table_cuda));
  m.impl("obb_nms", TORCH_BOX(&obb_nms_cuda));
}
