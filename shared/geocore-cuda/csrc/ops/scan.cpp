#include "ops/scan.h"
#include "ops/common.h"

// The structures of math/scan.h have one layout in every instruction set, but a type in each: they pass as untyped memory.
GEO_DECLARE(int64_t scan_memory_f32(const void*, bool))
GEO_DECLARE(int64_t scan_memory_f64(const void*, bool))
GEO_DECLARE(void scan_forward_f32(const void*, const void*, int64_t, int64_t, float*))
GEO_DECLARE(void scan_forward_f64(const void*, const void*, int64_t, int64_t, double*))
GEO_DECLARE(void scan_backward_f32(const void*, const void*, int64_t, int64_t, float*))
GEO_DECLARE(void scan_backward_f64(const void*, const void*, int64_t, int64_t, double*))

namespace {

using geo::ScanInputs;
using geo::Tensor;
using Maybe = std::optional<Tensor>;

const int64_t* offsets_of(const ScanInputs& in) { return in.offsets ? in.offsets->const_data_ptr<int64_t>() : nullptr; }

template <class T, class Kernel>
void run(const ScanInputs& in, const geo::Scan<T>& problem, const void* out, int64_t memory, Kernel kernel) {
  torch::stable::parallel_for(0, in.sequences() * in.heads(), 1, [&](int64_t begin, int64_t end) {
    constexpr int64_t line = 64 / sizeof(T);
    std::vector<T> scratch(static_cast<size_t>(memory + line));
    const auto at = reinterpret_cast<uintptr_t>(scratch.data());
    kernel(&problem, out, begin, end, reinterpret_cast<T*>((at + 63) / 64 * 64));
  });
}

std::tuple<Tensor, Tensor, Tensor> scan_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta, const Maybe& g, const Tensor& state,
                                            const Maybe& offsets, int64_t n, int64_t size, double scale, bool keep) {
  const char* op = "householder_scan";
  const bool wide = geo::is_double(q, op);
  const ScanInputs in = ScanInputs::of(op, q, k, v, beta, g, offsets, n, size, scale);
  const geo::ScanResult to = geo::ScanResult::of(op, in, state, keep, in.chunks(op, offsets_of(in)));
  if (wide) {
    const auto problem = in.problem<double>();
    const auto out = to.outputs<double>();
    run(in, problem, &out, GEO_BEST(scan_memory_f64)(&problem, false), GEO_BEST(scan_forward_f64));
  } else {
    const auto problem = in.problem<float>();
    const auto out = to.outputs<float>();
    run(in, problem, &out, GEO_BEST(scan_memory_f32)(&problem, false), GEO_BEST(scan_forward_f32));
  }
  return {to.o, to.last, to.states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> scan_backward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                                                                             const Maybe& g, const Maybe& offsets, const Tensor& states, const Tensor& d_o,
                                                                             const Tensor& d_last, const Maybe& d_states, int64_t n, int64_t size, double scale) {
  const char* op = "householder_scan_backward";
  const bool wide = geo::is_double(q, op);
  const ScanInputs in = ScanInputs::of(op, q, k, v, beta, g, offsets, n, size, scale);
  const geo::ScanAdjoint to = geo::ScanAdjoint::of(op, in, states, d_o, d_last, d_states, in.chunks(op, offsets_of(in)));
  if (wide) {
    const auto problem = in.problem<double>();
    const auto out = to.gradients<double>(in);
    run(in, problem, &out, GEO_BEST(scan_memory_f64)(&problem, true), GEO_BEST(scan_backward_f64));
  } else {
    const auto problem = in.problem<float>();
    const auto out = to.gradients<float>(in);
    run(in, problem, &out, GEO_BEST(scan_memory_f32)(&problem, true), GEO_BEST(scan_backward_f32));
  }
  return {to.dq, to.dk, to.dv, to.dbeta, to.dg, to.dstate};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("householder_scan", TORCH_BOX(&scan_cpu));
  m.impl("householder_scan_backward", TORCH_BOX(&scan_backward_cpu));
}
