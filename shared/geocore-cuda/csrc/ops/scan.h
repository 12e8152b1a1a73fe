// Arguments and results of the scan's operators, for every device.
#pragma once

#include "math/scan.h"
#include "ops/shapes.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace geo {

using torch::stable::Tensor;

// Contiguous arguments of one dtype whose shapes belong together.
struct ScanInputs {
  Tensor q, k, v, beta;
  std::optional<Tensor> g, offsets;
  int64_t n, size;
  double scale;

  int64_t batch() const { return q.size(0); }
  int64_t tokens() const { return q.size(1); }
  int64_t heads() const { return q.size(2); }
  int64_t sequences() const { return offsets ? offsets->size(0) - 1 : batch(); }
  std::vector<int64_t> state_shape(int64_t count) const { return {count, heads(), q.size(3), v.size(3)}; }
  std::vector<int64_t> output_shape() const { return {batch(), tokens(), heads(), v.size(3)}; }

  void check(const char* op, const char* name, const Tensor& x, const std::vector<int64_t>& shape) const {
    bool fits = x.dim() == static_cast<int64_t>(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = x.size(static_cast<int64_t>(i)) == shape[i];
    STD_TORCH_CHECK(fits, op, ": the shape of ", name, " does not belong to that of q (B, T, H, K), n and v (B, T n, H, V)");
    STD_TORCH_CHECK(x.scalar_type() == q.scalar_type(), op, ": ", name, " must have the dtype of q");
    STD_TORCH_CHECK(x.is_cpu() == q.is_cpu() && x.get_device_index() == q.get_device_index(), op, ": ", name, " must be on the device of q");
  }

  static ScanInputs of(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta, const std::optional<Tensor>& g,
                       const std::optional<Tensor>& offsets, int64_t n, int64_t size, double scale) {
    using torch::stable::contiguous;
    STD_TORCH_CHECK(q.dim() == 4 && v.dim() == 4, op, ": expected q of shape (B, T, H, K) and v of shape (B, T n, H, V)");
    STD_TORCH_CHECK(n >= 1 && size >= 1 && n <= 4096 && size <= 4096 && n * size <= 4096, op, ": expected 1 to 4096 micro-steps in a chunk");
    STD_TORCH_CHECK(q.size(3) <= 4096 && v.size(3) <= 4096, op, ": expected keys and values of at most 4096 features");
    const ScanInputs in{contiguous(q), contiguous(k), contiguous(v), contiguous(beta), g ? std::optional<Tensor>(contiguous(*g)) : std::nullopt,
                        offsets ? std::optional<Tensor>(contiguous(*offsets)) : std::nullopt, n, size, scale};
    const int64_t B = q.size(0), T = q.size(1), H = q.size(2);
    in.check(op, "k", k, {B, T * n, H, q.size(3)});
    in.check(op, "v", v, {B, T * n, H, v.size(3)});
    in.check(op, "beta", beta, {B, T * n, H});
    if (g) in.check(op, "g", *g, {B, T, H});
    if (offsets) {
      STD_TORCH_CHECK(B == 1 && offsets->dim() == 1 && offsets->size(0) >= 1, op, ": expected offsets of shape (N + 1,) of a batch of one");
      STD_TORCH_CHECK(offsets->scalar_type() == torch::headeronly::ScalarType::Long && offsets->is_cpu() == q.is_cpu(), op,
                      ": expected int64 offsets on the device of q");
    }
    return in;
  }

  // Chunks over all sequences; `at` are the offsets in memory of the CPU, if there are any.
  int64_t chunks(const char* op, const int64_t* at) const {
    if (!offsets) return batch() * ((tokens() + size - 1) / size);
    int64_t total = 0;
    STD_TORCH_CHECK(at[0] == 0 && at[sequences()] == tokens(), op, ": expected offsets from 0 to T");
    for (int64_t i = 0; i < sequences(); ++i) {
      STD_TORCH_CHECK(at[i] <= at[i + 1], op, ": expected offsets that do not decrease");
      total += (at[i + 1] - at[i] + size - 1) / size;
    }
    return total;
  }

  template <class T>
  Scan<T> problem() const {
    return {q.const_data_ptr<T>(),
            k.const_data_ptr<T>(),
            v.const_data_ptr<T>(),
            beta.const_data_ptr<T>(),
            g ? g->const_data_ptr<T>() : nullptr,
            offsets ? offsets->const_data_ptr<int64_t>() : nullptr,
            tokens(),
            heads(),
            sequences(),
            static_cast<int>(q.size(3)),
            static_cast<int>(v.size(3)),
            static_cast<int>(n),
            static_cast<int>(size),
            static_cast<T>(scale)};
  }
};

struct ScanResult {
  Tensor state, o, last, states;

  static ScanResult of(const char* op, const ScanInputs& in, const Tensor& state, bool keep, int64_t chunks) {
    using torch::stable::new_empty;
    in.check(op, "state", state, in.state_shape(in.sequences()));
    return {torch::stable::contiguous(state), new_empty(in.q, in.output_shape()), new_empty(in.q, in.state_shape(in.sequences())),
            new_empty(in.q, in.state_shape(keep ? chunks : 0))};
  }

  template <class T>
  ScanOutputs<T> outputs() const {
    return {state.const_data_ptr<T>(), o.mutable_data_ptr<T>(), last.mutable_data_ptr<T>(), states.numel() ? states.mutable_data_ptr<T>() : nullptr};
  }
};

struct ScanAdjoint {
  Tensor states, d_o, d_last;
  std::optional<Tensor> d_states;
  Tensor dq, dk, dv, dbeta, dg, dstate;

  static ScanAdjoint of(const char* op, const ScanInputs& in, const Tensor& states, const Tensor& d_o, const Tensor& d_last,
                        const std::optional<Tensor>& d_states, int64_t chunks) {
    using torch::stable::contiguous;
    in.check(op, "states", states, in.state_shape(chunks));
    in.check(op, "d_o", d_o, in.output_shape());
    in.check(op, "d_last", d_last, in.state_shape(in.sequences()));
    if (d_states) in.check(op, "d_states", *d_states, in.state_shape(chunks));
    const auto like = [](const Tensor& x) { return torch::stable::new_empty(x, std::vector<int64_t>(x.sizes().begin(), x.sizes().end())); };
    return {contiguous(states), contiguous(d_o), contiguous(d_last), d_states ? std::optional<Tensor>(contiguous(*d_states)) : std::nullopt,
            like(in.q), like(in.k), like(in.v), like(in.beta), in.g ? like(*in.g) : torch::stable::new_empty(in.q, {0}), like(d_last)};
  }

  template <class T>
  ScanGradients<T> gradients(const ScanInputs& in) const {
    return {states.const_data_ptr<T>(), d_o.const_data_ptr<T>(), d_last.const_data_ptr<T>(), d_states ? d_states->const_data_ptr<T>() : nullptr,
            dq.mutable_data_ptr<T>(), dk.mutable_data_ptr<T>(), dv.mutable_data_ptr<T>(), dbeta.mutable_data_ptr<T>(),
            in.g ? dg.mutable_data_ptr<T>() : nullptr, dstate.mutable_data_ptr<T>()};
  }
};

}  // namespace geo
