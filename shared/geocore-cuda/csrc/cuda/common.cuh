// What every CUDA operator needs: the current stream without a strong symbol, a guard for the device, checked launches.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cuda_runtime.h>

#include <cstdint>
#include "ops/shapes.h"

#include <tuple>
#include <vector>

// Absent from CPU builds of torch, where a strong reference would keep the whole library from loading.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace geo {

using torch::stable::Tensor;

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(&aoti_torch_get_current_cuda_stream != nullptr, "this build of torch has no CUDA");
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0, "cannot get the current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, op, ": launch failed: ", cudaGetErrorString(error));
}

// Blocks for n items, one thread each; kernels stride over the grid, so the cap loses nothing.
inline unsigned blocks(int64_t n, int threads) {
  const int64_t wanted = (n + threads - 1) / threads;
  return static_cast<unsigned>(wanted < 65535 * 16 ? wanted : 65535 * 16);
}

// for (GEO_GRID_LOOP(i, n)) visits every item once, with 64-bit indices.
#define GEO_GRID_LOOP(i, n)                                                                          \
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
  i += static_cast<int64_t>(gridDim.x) * blockDim.x

}  // namespace geo
