#include "cuda/common.cuh"
#include "math/block_team.h"
#include "ops/scan.h"

namespace {

using geo::ScanInputs;
using geo::Tensor;
using Maybe = std::optional<Tensor>;
constexpr int THREADS = 256;
constexpr int64_t MOST_BLOCKS = 2048;  // each has its own scratch memory

struct Threads {
  template <class F>
  __device__ void each(int64_t count, const F& f) const {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
    __syncthreads();
  }
};
using Block = geo::BlockTeam<Threads>;

template <class T>
__global__ void forward_kernel(geo::Scan<T> s, geo::ScanOutputs<T> out, int64_t chains, T* scratch, int64_t memory) {
  for (int64_t i = blockIdx.x; i < chains; i += gridDim.x) geo::scan_forward(Block{}, s, out, i, scratch + blockIdx.x * memory);
}

template <class T>
__global__ void backward_kernel(geo::Scan<T> s, geo::ScanGradients<T> out, int64_t chains, T* scratch, int64_t memory) {
  for (int64_t i = blockIdx.x; i < chains; i += gridDim.x) geo::scan_backward(Block{}, s, out, i, scratch + blockIdx.x * memory);
}

// Chunks over all sequences; offsets are waited for.
int64_t chunks_of(const char* op, const ScanInputs& in, cudaStream_t stream) {
  if (!in.offsets) return in.chunks(op, nullptr);
  std::vector<int64_t> at(static_cast<size_t>(in.offsets->numel()));
  const cudaError_t copied = cudaMemcpyAsync(at.data(), in.offsets->const_data_ptr<int64_t>(), at.size() * sizeof(int64_t), cudaMemcpyDeviceToHost, stream);
  const cudaError_t done = copied == cudaSuccess ? cudaStreamSynchronize(stream) : copied;
  STD_TORCH_CHECK(done == cudaSuccess, op, ": cannot read the offsets: ", cudaGetErrorString(done));
  return in.chunks(op, at.data());
}

template <class T, class Out, class Kernel>
void launch(const char* op, const ScanInputs& in, const Out& out, bool backward, Kernel kernel, cudaStream_t stream) {
  const geo::Scan<T> problem = in.problem<T>();
  const int64_t chains = in.sequences() * in.heads(), grid = chains < MOST_BLOCKS ? chains : MOST_BLOCKS;
  const int64_t memory = geo::ScanMemory<T>{}.lay(nullptr, problem, 1, backward);
  if (chains == 0) return;
  Tensor scratch = torch::stable::new_empty(in.q, {grid * memory});
  kernel<<<static_cast<unsigned>(grid), THREADS, 0, stream>>>(problem, out, chains, scratch.mutable_data_ptr<T>(), memory);
  geo::check_launch(op);
}

template <class T>
void forward(const char* op, const ScanInputs& in, const geo::ScanResult& to, cudaStream_t stream) {
  launch<T>(op, in, to.outputs<T>(), false, forward_kernel<T>, stream);
}

template <class T>
void backward(const char* op, const ScanInputs& in, const geo::ScanAdjoint& to, cudaStream_t stream) {
  launch<T>(op, in, to.gradients<T>(in), true, backward_kernel<T>, stream);
}

std::tuple<Tensor, Tensor, Tensor> scan_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta, const Maybe& g, const Tensor& state,
                                             const Maybe& offsets, int64_t n, int64_t size, double scale, bool keep) {
  const char* op = "householder_scan";
  const bool wide = geo::is_double(q, op);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  const ScanInputs in = ScanInputs::of(op, q, k, v, beta, g, offsets, n, size, scale);
  const cudaStream_t stream = geo::current_stream(in.q);
  geo::ScanResult to = geo::ScanResult::of(op, in, state, keep, chunks_of(op, in, stream));
  wide ? forward<double>(op, in, to, stream) : forward<float>(op, in, to, stream);
  return {to.o, to.last, to.states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                                                                              const Maybe& g, const Maybe& offsets, const Tensor& states, const Tensor& d_o,
                                                                              const Tensor& d_last, const Maybe& d_states, int64_t n, int64_t size, double scale) {
  const char* op = "householder_scan_backward";
  const bool wide = geo::is_double(q, op);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  const ScanInputs in = ScanInputs::of(op, q, k, v, beta, g, offsets, n, size, scale);
  const cudaStream_t stream = geo::current_stream(in.q);
  geo::ScanAdjoint to = geo::ScanAdjoint::of(op, in, states, d_o, d_last, d_states, chunks_of(op, in, stream));
  wide ? backward<double>(op, in, to, stream) : backward<float>(op, in, to, stream);
  return {to.dq, to.dk, to.dv, to.dbeta, to.dg, to.dstate};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CUDA, m) {
  m.impl("householder_scan", TORCH_BOX(&scan_cuda));
  m.impl("householder_scan_backward", TORCH_BOX(&scan_backward_cuda));
}
