// The pairs of two sets of oriented boxes that overlap, on CUDA: counted first, then written where they belong, row by row.
#include "cuda/boxes.cuh"
#include "cuda/common.cuh"
#include "ops/boxes.h"

#include <array>
#include <optional>

namespace {

using geo::Box;
using geo::ScalarType;
using geo::Tensor;

constexpr int THREADS = 128, WARP = 32;
constexpr int64_t SPAN = 2048;  // columns of one warp: a segment of a row

// Never inlined: the two passes must find the same pairs, so both run the same instructions.
template <class T>
__device__ __noinline__ T ratio_of_pair(const T* a, const T* b, int64_t i, int64_t j, bool of_first) {
  const Box<T> first = geo::box_at(a, i), second = geo::box_at(b, j);
  return geo::circles_meet(first, second) ? geo::held_ratio(first, second, of_first) : T(0);
}

// One warp for each segment, 32 columns at a time. Without `ends` it counts the pairs; with them, the sums of the counts so far, it
// writes rows, columns and ratios in the order of the table.
template <class T, bool WRITE>
__global__ void segments_kernel(const T* __restrict__ a, const T* __restrict__ b, int64_t m, int64_t per_row, int64_t segments, bool of_first,
                                int64_t* counts, const int64_t* ends, int64_t* rows, int64_t* columns, T* ratios) {
  const int lane = threadIdx.x % WARP;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (THREADS / WARP);
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP; s < segments; s += warps) {
    const int64_t i = s / per_row, from = s % per_row * SPAN, to = from + SPAN < m ? from + SPAN : m;
    const int64_t wanted = WRITE ? counts[s] : 0, start = WRITE ? ends[s] - wanted : 0;
    int64_t found = 0;
    for (int64_t at = from; at < to && (!WRITE || found < wanted); at += WARP) {
      const int64_t j = at + lane;
      const T ratio = j < to ? ratio_of_pair(a, b, i, j, of_first) : T(0);
      const bool some = ratio != T(0);  // NaN too
      const unsigned hits = __ballot_sync(0xffffffffu, some);
      if (WRITE && some) {
        const int64_t place = start + found + __popc(hits & ((1u << lane) - 1));
        rows[place] = i, columns[place] = j, ratios[place] = ratio;
      }
      found += __popc(hits);
    }
    if (!WRITE && lane == 0) counts[s] = found;
  }
}

Tensor running_sums(const Tensor& counts) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(counts), torch::stable::detail::from(int64_t(0)),
                                    torch::stable::detail::from(std::optional<ScalarType>())};
  STD_TORCH_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION) == 0, "obb_iou_list: cannot sum the counts");
  return torch::stable::detail::to<Tensor>(stack[0]);
}

template <class T>
std::tuple<Tensor, Tensor> list(const Tensor& a, const Tensor& b, bool of_first) {
  const int64_t n = a.size(0), m = b.size(0), per_row = (m + SPAN - 1) / SPAN, segments = n * per_row;
  int64_t total = 0;
  const T *pa = a.const_data_ptr<T>(), *pb = b.const_data_ptr<T>();
  const cudaStream_t stream = geo::current_stream(a);
  const unsigned grid = geo::blocks(segments, THREADS / WARP);
  Tensor counts = torch::stable::new_empty(a, {segments}, ScalarType::Long), ends = counts;
  if (segments) {
    segments_kernel<T, false><<<grid, THREADS, 0, stream>>>(pa, pb, m, per_row, segments, of_first, counts.mutable_data_ptr<int64_t>(), nullptr,
                                                            nullptr, nullptr, nullptr);
    geo::check_launch("obb_iou_list");
    ends = running_sums(counts);
    cudaError_t error =
        cudaMemcpyAsync(&total, ends.const_data_ptr<int64_t>() + segments - 1, sizeof total, cudaMemcpyDeviceToHost, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    STD_TORCH_CHECK(error == cudaSuccess, "obb_iou_list: cannot read the number of pairs: ", cudaGetErrorString(error));
  }
  Tensor index = torch::stable::new_empty(a, {2, total}, ScalarType::Long), ratios = torch::stable::new_empty(a, {total});
  if (total == 0) return {index, ratios};
  int64_t* rows = index.mutable_data_ptr<int64_t>();
  segments_kernel<T, true><<<grid, THREADS, 0, stream>>>(pa, pb, m, per_row, segments, of_first, counts.mutable_data_ptr<int64_t>(),
                                                         ends.const_data_ptr<int64_t>(), rows, rows + total, ratios.mutable_data_ptr<T>());
  geo::check_launch("obb_iou_list");
  return {index, ratios};
}

std::tuple<Tensor, Tensor> obb_iou_list_cuda(const Tensor& a, const Tensor& b, bool of_first) {
  const bool wide = geo::check_sets(a, b, 2, "obb_iou_list");
  const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b);
  return wide ? list<double>(x, y, of_first) : list<float>(x, y, of_first);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) { m.impl("obb_iou_list", TORCH_BOX(&obb_iou_list_cuda)); }
