// The number types that every formula of this library is written for, and the few functions that tell them apart.
//
// On a GPU a formula runs on float or double, one thread per item. On a CPU it runs on Lanes: a GCC vector in which each lane
// holds the same entry of a different item, so that plain formulas become SIMD code without a layout of their own. Formulas
// choose by `pick(mask, a, b)` and never branch on a value; loops that converge ask `any(mask)`.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define GEO_FN __host__ __device__ __forceinline__
#else
#define GEO_FN inline __attribute__((always_inline))
#endif

// Every translation unit that is compiled for another instruction set keeps its templates in a namespace of its own: the linker
// merges equal names, and a merged AVX-512 body would run on machines without it.
#ifndef GEO_ISA
#define GEO_ISA base
#endif
#ifndef GEO_VECTOR_BYTES
#define GEO_VECTOR_BYTES 16
#endif

namespace geo {
inline namespace GEO_ISA {

// --- one item ------------------------------------------------------------------------------------------------------------
template <class T>
GEO_FN T pick(bool mask, T a, T b) { return mask ? a : b; }
GEO_FN bool any(bool mask) { return mask; }
GEO_FN float root(float x) { return sqrtf(x); }
GEO_FN double root(double x) { return sqrt(x); }
GEO_FN float magnitude(float x) { return fabsf(x); }
GEO_FN double magnitude(double x) { return fabs(x); }
GEO_FN float exponential(float x) { return expf(x); }
GEO_FN double exponential(double x) { return exp(x); }

template <class S>
struct Traits {
  using scalar = S;
  static constexpr int width = 1;
};

#if !defined(__CUDACC__)
// --- one item per lane ---------------------------------------------------------------------------------------------------
typedef float FloatLanes __attribute__((vector_size(GEO_VECTOR_BYTES)));
typedef double DoubleLanes __attribute__((vector_size(GEO_VECTOR_BYTES)));

template <>
struct Traits<FloatLanes> {
  using scalar = float;
  static constexpr int width = GEO_VECTOR_BYTES / sizeof(float);
};
template <>
struct Traits<DoubleLanes> {
  using scalar = double;
  static constexpr int width = GEO_VECTOR_BYTES / sizeof(double);
};

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> { using type = FloatLanes; };
template <>
struct LanesOf<double> { using type = DoubleLanes; };

// Neighbours in memory, at any alignment.
template <class V, class T>
GEO_FN V load(const T* from) {
  V x;
  __builtin_memcpy(&x, from, sizeof(V));
  return x;
}
template <class V, class T>
GEO_FN void store(T* to, V x) { __builtin_memcpy(to, &x, sizeof(V)); }

// A comparison of lanes is an integer vector, all ones where it holds.
template <class M, class V>
GEO_FN V pick(M mask, V a, V b) { return mask ? a : b; }
template <class M>
GEO_FN bool any(M mask) {
  bool some = false;
  for (unsigned i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) some |= mask[i] != 0;
  return some;
}
GEO_FN FloatLanes root(FloatLanes x) {
  FloatLanes y;
  for (int i = 0; i < Traits<FloatLanes>::width; ++i) y[i] = __builtin_sqrtf(x[i]);
  return y;
}
GEO_FN DoubleLanes root(DoubleLanes x) {
  DoubleLanes y;
  for (int i = 0; i < Traits<DoubleLanes>::width; ++i) y[i] = __builtin_sqrt(x[i]);
  return y;
}
GEO_FN FloatLanes magnitude(FloatLanes x) { return x < 0 ? -x : x; }
GEO_FN DoubleLanes magnitude(DoubleLanes x) { return x < 0 ? -x : x; }
#endif

// --- both ----------------------------------------------------------------------------------------------------------------
template <class S>
using scalar_t = typename Traits<S>::scalar;

// The constant x in every lane.
template <class S>
GEO_FN S constant(double x) { return S{} + static_cast<scalar_t<S>>(x); }
template <class S>
GEO_FN S least(S a, S b) { return pick(a < b, a, b); }
template <class S>
GEO_FN S most(S a, S b) { return pick(a > b, a, b); }
template <class S>
GEO_FN constexpr double epsilon() { return std::numeric_limits<scalar_t<S>>::epsilon(); }

}  // namespace GEO_ISA
}  // namespace geo
