// Overlap of oriented boxes on the CPU, pair by pair, as a table, as a list, and in greedy suppression: no torch here.
#include "../math/boxes.h"

namespace geo {
inline namespace GEO_ISA {

namespace {

template <class T>
using Lanes = typename LanesOf<T>::type;

// Items of five numbers, one in each lane; `fill` lanes at most, the others repeat the last.
template <class T>
struct Five {
  static constexpr int width = Traits<Lanes<T>>::width;
  alignas(GEO_VECTOR_BYTES) T at[5][width];

  GEO_FN void put(int lane, const T* item) {
    for (int k = 0; k < 5; ++k) at[k][lane] = item[k];
  }
  GEO_FN void load(const T* items, int fill) {
    for (int lane = 0; lane < width; ++lane) put(lane, items + 5 * (lane < fill ? lane : fill - 1));
  }
  GEO_FN void store(T* items, int fill) const {
    for (int lane = 0; lane < fill; ++lane)
      for (int k = 0; k < 5; ++k) items[5 * lane + k] = at[k][lane];
  }
  GEO_FN Box<Lanes<T>> box() const {
    Box<Lanes<T>> box;
    __builtin_memcpy(&box, at, sizeof at);
    return box;
  }
  GEO_FN void set(const Box<Lanes<T>>& box) {
    __builtin_memcpy(at, &box, sizeof at);
  }
};

// formula(first, second) for aligned items.
template <class T, class F>
GEO_FN void pairs(const T* a, const T* b, T* out, int64_t begin, int64_t end, F formula) {
  constexpr int width = Five<T>::width;
  Five<T> first, second;
  for (int64_t i = begin; i < end; i += width) {
    const int fill = static_cast<int>(end - i < width ? end - i : width);
    first.load(a + 5 * i, fill), second.load(b + 5 * i, fill);
    const Lanes<T> found = formula(first.box(), second.box());
    for (int lane = 0; lane < fill; ++lane) out[i + lane] = found[lane];
  }
}

// formula(first, second, weight, g1, g2) likewise.
template <class T, class F>
GEO_FN void gradients(const T* a, const T* b, const T* weight, T* ga, T* gb, int64_t begin, int64_t end, F formula) {
  using S = Lanes<T>;
  constexpr int width = Five<T>::width;
  Five<T> first, second;
  for (int64_t i = begin; i < end; i += width) {
    const int fill = static_cast<int>(end - i < width ? end - i : width);
    first.load(a + 5 * i, fill), second.load(b + 5 * i, fill);
    S factor;
    for (int lane = 0; lane < width; ++lane) factor[lane] = weight[i + (lane < fill ? lane : fill - 1)];
    Box<S> g1, g2;
    formula(first.box(), second.box(), factor, g1, g2);
    first.set(g1), second.set(g2);
    first.store(ga + 5 * i, fill), second.store(gb + 5 * i, fill);
  }
}

// Circles around boxes, as three rows: x, y, radius.
template <class T>
void circles(const T* boxes, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T *box = boxes + 5 * i, w = box[2], h = box[3];
    out[i] = box[0], out[n + i] = box[1], out[2 * n + i] = T(0.5) * root(w * w + h * h);
  }
}

// Pairs that wait for a full vector; `emit(i, j, ratio)` gets them in the order in which they came.
template <class T>
struct Waiting {
  Five<T> first, second;
  int64_t i[Five<T>::width], j[Five<T>::width];
  int count = 0;
  bool of_first;

  explicit Waiting(bool of_first_) : of_first(of_first_) {}

  template <class F>
  GEO_FN void add(const T* a, const T* b, int64_t i_, int64_t j_, F emit) {
    first.put(count, a), second.put(count, b);
    i[count] = i_, j[count] = j_;
    if (++count == Five<T>::width) flush(emit);
  }
  template <class F>
  __attribute__((noinline)) void flush(F emit) {
    if (count == 0) return;
    for (int lane = count; lane < Five<T>::width; ++lane)
      for (int k = 0; k < 5; ++k) first.at[k][lane] = first.at[k][0], second.at[k][lane] = second.at[k][0];
    const Lanes<T> ratio = held_ratio(first.box(), second.box(), of_first);
    for (int lane = 0; lane < count; ++lane) emit(i[lane], j[lane], ratio[lane]);
    count = 0;
  }
};

constexpr int64_t BLOCK = 2048;

// visit(j) for the circles begin .. end - 1 that the circle (x, y, radius) meets, in order.
template <class T, class F>
GEO_FN void for_near(T x, T y, T radius, const T* rows, int64_t n, int64_t begin, int64_t end, F visit) {
  alignas(64) uint8_t near[BLOCK];
  for (int64_t at = begin; at < end; at += BLOCK) {
    const int64_t count = end - at < BLOCK ? end - at : BLOCK;
    const T *__restrict__ xs = rows + at, *__restrict__ ys = rows + n + at, *__restrict__ radii = rows + 2 * n + at;
    for (int64_t k = 0; k < count; ++k) {
      const T dx = x - xs[k], dy = y - ys[k], reach = radius + radii[k];
      near[k] = dx * dx + dy * dy < reach * reach;
    }
    for (int64_t k = count; k < (count + 7) / 8 * 8; ++k) near[k] = 0;
    for (int64_t k = 0; k < count; k += 8) {
      uint64_t some;
      __builtin_memcpy(&some, near + k, 8);
      if (some == 0) continue;
      for (int64_t l = k; l < k + 8; ++l)
        if (near[l]) visit(at + l);
    }
  }
}

template <class T>
void table(const T* a, const T* b, const T* around, T* out, int64_t m, bool of_first, int64_t begin, int64_t end) {
  Waiting<T> waiting(of_first);
  const auto emit = [&](int64_t i, int64_t j, T ratio) { out[i * m + j] = ratio; };
  for (int64_t i = begin; i < end; ++i) {
    const T* box = a + 5 * i;
    for (int64_t j = 0; j < m; ++j) out[i * m + j] = 0;
    const T radius = T(0.5) * root(box[2] * box[2] + box[3] * box[3]);
    for_near(box[0], box[1], radius, around, m, 0, m, [&](int64_t j) { waiting.add(box, b + 5 * j, i, j, emit); });
  }
  waiting.flush(emit);
}

// Rows from `begin` on, while a whole row is sure to fit; sets `begin` to the first row not done and returns the pairs found.
template <class T>
int64_t list(const T* a, const T* b, const T* around, int64_t m, bool of_first, int64_t& begin, int64_t end, int64_t room, int64_t* rows,
             int64_t* columns, T* ratios) {
  Waiting<T> waiting(of_first);
  int64_t found = 0;
  const auto emit = [&](int64_t i, int64_t j, T ratio) {
    rows[found] = i, columns[found] = j, ratios[found] = ratio;
    found += ratio != 0;
  };
  for (; begin < end && found + waiting.count + m <= room; ++begin) {
    const T* box = a + 5 * begin;
    const T radius = T(0.5) * root(box[2] * box[2] + box[3] * box[3]);
    for_near(box[0], box[1], radius, around, m, 0, m, [&](int64_t j) { waiting.add(box, b + 5 * j, begin, j, emit); });
  }
  waiting.flush(emit);
  return found;
}

// `alive` starts as ones; kinds may be null.
template <class T>
int64_t suppress(const T* boxes, const T* around, const int64_t* kinds, int64_t n, T threshold, int64_t limit, uint8_t* alive, int64_t* kept) {
  Waiting<T> waiting(false);
  int64_t count = 0;
  const auto emit = [&](int64_t, int64_t j, T ratio) {
    if (ratio > threshold) alive[j] = 0;
  };
  for (int64_t i = 0; i < n && count < limit; ++i) {
    if (!alive[i]) continue;
    kept[count++] = i;
    for_near(around[i], around[n + i], around[2 * n + i], around, n, i + 1, n, [&](int64_t j) {
      if (alive[j] && (kinds == nullptr || kinds[i] == kinds[j])) waiting.add(boxes + 5 * i, boxes + 5 * j, i, j, emit);
    });
    waiting.flush(emit);
  }
  return count;
}

}  // namespace

// kind: 0 the area of the overlap, 1 over that of the union, 2 over that of the first box.
#define GEO_BOXES(T, suffix)                                                                                                                     \
  void obb_pairs_##suffix(const T* a, const T* b, T* out, int kind, int64_t begin, int64_t end) {                                                \
    using B = Box<Lanes<T>>;                                                                                                                     \
    if (kind == 0) return pairs(a, b, out, begin, end, [](const B& x, const B& y) { return intersection(x, y); });                               \
    pairs(a, b, out, begin, end, [=](const B& x, const B& y) { return overlap_ratio(x, y, kind == 2); });                                        \
  }                                                                                                                                              \
  void obb_gradient_##suffix(const T* a, const T* b, const T* weight, T* ga, T* gb, int kind, int64_t begin, int64_t end) {                      \
    using S = Lanes<T>;                                                                                                                          \
    using B = Box<S>;                                                                                                                            \
    if (kind == 0)                                                                                                                               \
      return gradients(a, b, weight, ga, gb, begin, end, [](const B& x, const B& y, S w, B& g, B& h) { intersection_gradient(x, y, w, g, h); }); \
    gradients(a, b, weight, ga, gb, begin, end, [=](const B& x, const B& y, S w, B& g, B& h) { ratio_gradient(x, y, w, kind == 2, g, h); });     \
  }                                                                                                                                              \
  void obb_circles_##suffix(const T* boxes, T* out, int64_t n) { circles(boxes, out, n); }                                                       \
  void obb_table_##suffix(const T* a, const T* b, const T* around, T* out, int64_t m, bool of_first, int64_t begin, int64_t end) {               \
    table(a, b, around, out, m, of_first, begin, end);                                                                                           \
  }                                                                                                                                              \
  int64_t obb_list_##suffix(const T* a, const T* b, const T* around, int64_t m, bool of_first, int64_t& begin, int64_t end,                      \
                            int64_t room, int64_t* rows, int64_t* columns, T* ratios) {                                                          \
    return list(a, b, around, m, of_first, begin, end, room, rows, columns, ratios);                                                             \
  }                                                                                                                                              \
  int64_t obb_suppress_##suffix(const T* boxes, const T* around, const int64_t* kinds, int64_t n, T threshold, int64_t limit,                    \
                                uint8_t* alive, int64_t* kept) {                                                                                 \
    return suppress(boxes, around, kinds, n, threshold, limit, alive, kept);                                                                     \
  }

GEO_BOXES(float, f32)
GEO_BOXES(double, f64)

}  // namespace GEO_ISA
}  // namespace geo
