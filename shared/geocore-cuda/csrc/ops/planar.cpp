#include "ops/boxes.h"

#include "ops/common.h"

#include <cstring>
#include <limits>

#define GEO_BOXES(T, suffix)                                                                                       \
  GEO_DECLARE(void obb_pairs_##suffix(const T*, const T*, T*, int, int64_t, int64_t))                                   \
  GEO_DECLARE(void obb_gradient_##suffix(const T*, const T*, const T*, T*, T*, int, int64_t, int64_t))                  \
  GEO_DECLARE(void obb_circles_##suffix(const T*, T*, int64_t))                                                    \
  GEO_DECLARE(void obb_table_##suffix(const T*, const T*, const T*, T*, int64_t, bool, int64_t, int64_t))          \
  GEO_DECLARE(int64_t obb_list_##suffix(const T*, const T*, const T*, int64_t, bool, int64_t&, int64_t, int64_t,   \
                                        int64_t*, int64_t*, T*))                                                   \
  GEO_DECLARE(int64_t obb_suppress_##suffix(const T*, const T*, const int64_t*, int64_t, T, int64_t, uint8_t*, int64_t*))
GEO_BOXES(float, f32)
GEO_BOXES(double, f64)

namespace {

using geo::Kind;
using geo::ScalarType;
using geo::Tensor;

template <class T>
struct Kernels;
#define GEO_KERNELS(T, suffix)                                        \
  template <>                                                         \
  struct Kernels<T> {                                                 \
    static auto pairs() { return GEO_BEST(obb_pairs_##suffix); }      \
    static auto gradient() { return GEO_BEST(obb_gradient_##suffix); } \
    static auto circles() { return GEO_BEST(obb_circles_##suffix); }  \
    static auto table() { return GEO_BEST(obb_table_##suffix); }      \
    static auto list() { return GEO_BEST(obb_list_##suffix); }        \
    static auto suppress() { return GEO_BEST(obb_suppress_##suffix); } \
  };
GEO_KERNELS(float, f32)
GEO_KERNELS(double, f64)

template <class T>
void measure(const Tensor& a, const Tensor& b, Tensor& out, Kind kind) {
  const T *pa = a.const_data_ptr<T>(), *pb = b.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  const auto kernel = Kernels<T>::pairs();
  torch::stable::parallel_for(0, out.numel(), geo::grain(sizeof(T) * 3),
                              [&](int64_t begin, int64_t end) { kernel(pa, pb, to, kind, begin, end); });
}

Tensor measure(const Tensor& a_, const Tensor& b_, Kind kind, const char* op) {
  const bool wide = geo::check_pairs(a_, b_, op);
  const Tensor a = torch::stable::contiguous(a_), b = torch::stable::contiguous(b_);
  auto shape = geo::shape_of(a);
  shape.pop_back();
  Tensor out = torch::stable::new_empty(a, shape);
  wide ? measure<double>(a, b, out, kind) : measure<float>(a, b, out, kind);
  return out;
}

template <class T>
void gradient(const Tensor& a, const Tensor& b, const Tensor& grad, Tensor& ga, Tensor& gb, Kind kind) {
  const T *pa = a.const_data_ptr<T>(), *pb = b.const_data_ptr<T>(), *weight = grad.const_data_ptr<T>();
  T *out_a = ga.mutable_data_ptr<T>(), *out_b = gb.mutable_data_ptr<T>();
  const auto kernel = Kernels<T>::gradient();
  torch::stable::parallel_for(0, grad.numel(), geo::grain(sizeof(T) * 6),
                              [&](int64_t begin, int64_t end) { kernel(pa, pb, weight, out_a, out_b, kind, begin, end); });
}

std::tuple<Tensor, Tensor> gradient(const Tensor& a_, const Tensor& b_, const Tensor& grad_, Kind kind, const char* op) {
  const bool wide = geo::check_pairs(a_, b_, op);
  auto shape = geo::shape_of(a_);
  shape.pop_back();
  STD_TORCH_CHECK(geo::shape_of(grad_) == shape && grad_.scalar_type() == a_.scalar_type(), op,
                  ": expected grad with one number per pair, of the dtype of a");
  const Tensor a = torch::stable::contiguous(a_), b = torch::stable::contiguous(b_), grad = torch::stable::contiguous(grad_);
  Tensor ga = torch::stable::new_empty(a, a.sizes()), gb = torch::stable::new_empty(b, b.sizes());
  wide ? gradient<double>(a, b, grad, ga, gb, kind) : gradient<float>(a, b, grad, ga, gb, kind);
  return {ga, gb};
}

Tensor obb_intersection_cpu(const Tensor& a, const Tensor& b) { return measure(a, b, geo::AREA, "obb_intersection"); }
Tensor obb_ratio_cpu(const Tensor& a, const Tensor& b, bool of_first) { return measure(a, b, geo::kind_of(of_first), "obb_ratio"); }
std::tuple<Tensor, Tensor> obb_intersection_backward_cpu(const Tensor& a, const Tensor& b, const Tensor& grad) {
  return gradient(a, b, grad, geo::AREA, "obb_intersection_backward");
}
std::tuple<Tensor, Tensor> obb_ratio_backward_cpu(const Tensor& a, const Tensor& b, const Tensor& grad, bool of_first) {
  return gradient(a, b, grad, geo::kind_of(of_first), "obb_ratio_backward");
}

// Rows per task so that a task tests some 10^5 pairs.
int64_t rows_per_task(int64_t m) { return m == 0 ? 1 : (1 << 17) / m + 1; }

template <class T>
Tensor table(const Tensor& a, const Tensor& b, bool of_first) {
  const int64_t sets = a.size(0), n = a.size(1), m = b.size(1);
  Tensor out = torch::stable::new_empty(a, {sets, n, m});
  const T *pa = a.const_data_ptr<T>(), *pb = b.const_data_ptr<T>();
  T* values = out.mutable_data_ptr<T>();
  std::vector<T> around(sets * 3 * m);
  for (int64_t k = 0; k < sets; ++k) Kernels<T>::circles()(pb + k * m * 5, around.data() + k * 3 * m, m);
  const auto kernel = Kernels<T>::table();
  torch::stable::parallel_for(0, sets * n, rows_per_task(m), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t k = begin / n, stop = (k + 1) * n < end ? (k + 1) * n : end;
      kernel(pa + k * n * 5, pb + k * m * 5, around.data() + k * 3 * m, values + k * n * m, m, of_first, begin - k * n, stop - k * n);
      begin = stop;
    }
  });
  return out;
}

Tensor obb_iou_table_cpu(const Tensor& a, const Tensor& b, bool of_first) {
  const bool wide = geo::check_sets(a, b, 3, "obb_iou_table");
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b);
  return wide ? table<double>(x, y, of_first) : table<float>(x, y, of_first);
}

template <class T>
struct Found {
  std::vector<int64_t> rows, columns;
  std::vector<T> ratios;
  int64_t count = 0;

  void reserve(int64_t room) { rows.resize(room), columns.resize(room), ratios.resize(room); }
};

template <class T>
std::tuple<Tensor, Tensor> list(const Tensor& a, const Tensor& b, bool of_first) {
  const int64_t n = a.size(0), m = b.size(0), step = rows_per_task(m), tasks = (n + step - 1) / step;
  const T *pa = a.const_data_ptr<T>(), *pb = b.const_data_ptr<T>();
  std::vector<T> around(3 * m);
  Kernels<T>::circles()(pb, around.data(), m);
  std::vector<Found<T>> found(tasks);
  const auto kernel = Kernels<T>::list();
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      Found<T>& mine = found[task];
      int64_t row = task * step, room = 2 * m + 4096;
      const int64_t stop = row + step < n ? row + step : n;
      while (row < stop) {
        mine.reserve(room);
        mine.count += kernel(pa, pb, around.data(), m, of_first, row, stop, room - mine.count, mine.rows.data() + mine.count,
                             mine.columns.data() + mine.count, mine.ratios.data() + mine.count);
        room = 2 * room + m;
      }
    }
  });
  int64_t total = 0;
  for (const Found<T>& part : found) total += part.count;
  Tensor index = torch::stable::new_empty(a, {2, total}, ScalarType::Long), ratio = torch::stable::new_empty(a, {total});
  int64_t* rows = index.mutable_data_ptr<int64_t>();
  T* ratios = ratio.mutable_data_ptr<T>();
  int64_t at = 0;
  for (const Found<T>& part : found) {
    if (part.count == 0) continue;
    std::memcpy(rows + at, part.rows.data(), part.count * sizeof(int64_t));
    std::memcpy(rows + total + at, part.columns.data(), part.count * sizeof(int64_t));
    std::memcpy(ratios + at, part.ratios.data(), part.count * sizeof(T));
    at += part.count;
  }
  return {index, ratio};
}

std::tuple<Tensor, Tensor> obb_iou_list_cpu(const Tensor& a, const Tensor& b, bool of_first) {
  const bool wide = geo::check_sets(a, b, 2, "obb_iou_list");
  const Tensor x = torch::stable::contiguous(a), y = torch::stable::contiguous(b);
  return wide ? list<double>(x, y, of_first) : list<float>(x, y, of_first);
}

template <class T>
Tensor suppress(const Tensor& boxes, const int64_t* kinds, double threshold, int64_t limit) {
  const int64_t n = boxes.size(0);
  const T* p = boxes.const_data_ptr<T>();
  std::vector<T> around(3 * n);
  std::vector<uint8_t> alive(n, 1);
  std::vector<int64_t> kept(n);
  Kernels<T>::circles()(p, around.data(), n);
  const int64_t count = Kernels<T>::suppress()(p, around.data(), kinds, n, static_cast<T>(threshold), limit, alive.data(), kept.data());
  Tensor out = torch::stable::new_empty(boxes, {count}, ScalarType::Long);
  if (count) std::memcpy(out.mutable_data_ptr<int64_t>(), kept.data(), count * sizeof(int64_t));
  return out;
}

Tensor obb_nms_cpu(const Tensor& boxes, const Tensor& kinds, double threshold, int64_t max_output) {
  const bool wide = geo::check_suppression(boxes, kinds);
  const Tensor x = torch::stable::contiguous(boxes), k = torch::stable::contiguous(kinds);
  const int64_t* classes = k.size(0) ? k.const_data_ptr<int64_t>() : nullptr;
  const int64_t limit = max_output < 0 ? std::numeric_limits<int64_t>::max() : max_output;
  return wide ? suppress<double>(x, classes, threshold, limit) : suppress<float>(x, classes, threshold, limit);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geocore, CPU, m) {
  m.impl("obb_intersection", TORCH_BOX(&obb_intersection_cpu));
  m.impl("obb_intersection_backward", TORCH_BOX(&obb_intersection_backward_cpu));
  m.impl("obb_ratio", TORCH_BOX(&obb_ratio_cpu));
  m.impl("obb_ratio_backward", TORCH_BOX(&obb_ratio_backward_cpu));
  m.impl("obb_iou_table", TORCH_BOX(&obb_iou_table_cpu));
  m.impl("obb_iou_list", TORCH_BOX(&obb_iou_list_cpu));
  m.impl("obb_nms", TORCH_BOX(&obb_nms_cpu));
}
