// Overlap of two oriented boxes (cx, cy, w, h, t), and its gradient.
//
// Clamping the outline of one box to the other keeps its winding number about every inner point, so the signed area of the clamped
// outline is the overlap, a sum over four edges of closed-form integrals: no sorting, no branches. Everything is measured in the
// frame of the second box from the difference of the centres, which keeps float32 accurate at any coordinates.
#pragma once

#include "angles.h"

namespace geo {
inline namespace GEO_ISA {

template <class S>
struct Box {
  S x, y, w, h, t;
};

// The first box in the frame of the second: centre, half axes u and v, and what they were made from.
template <class S>
struct Placed {
  S dx, dy, cb, sb;  // difference of the centres; direction of the second box
  S x, y, c, s;      // centre; direction of the first box
  S ux, uy, vx, vy;
  S a, b;  // half sides of the second box

  GEO_FN Placed(const Box<S>& first, const Box<S>& second) {
    const S half = constant<S>(0.5);
    dx = first.x - second.x, dy = first.y - second.y;
    sine_cosine(second.t, sb, cb);
    sine_cosine(first.t - second.t, s, c);
    x = cb * dx + sb * dy, y = cb * dy - sb * dx;
    ux = half * first.w * c, uy = half * first.w * s;
    vx = -half * first.h * s, vy = half * first.h * c;
    a = half * second.w, b = half * second.h;
  }

  // Corner i of the outline, in the order (-,-), (+,-), (+,+), (-,+).
  GEO_FN S corner_x(int i) const { return (i == 1 || i == 2 ? x + ux : x - ux) + (i >= 2 ? vx : -vx); }
  GEO_FN S corner_y(int i) const { return (i == 1 || i == 2 ? y + uy : y - uy) + (i >= 2 ? vy : -vy); }

  // Whether an axis of either box separates them.
  GEO_FN auto apart(const Box<S>& first) const {
    const S half = constant<S>(0.5), ac = magnitude(c), as = magnitude(s);
    return (magnitude(x) >= a + magnitude(ux) + magnitude(vx)) | (magnitude(y) >= b + magnitude(uy) + magnitude(vy)) |
           (magnitude(c * x + s * y) >= half * first.w + a * ac + b * as) |
           (magnitude(c * y - s * x) >= half * first.h + a * as + b * ac);
  }

  // Minima drop a NaN, so it is carried past them: zero, or NaN where a number is not finite.
  GEO_FN S poison() const { return (x + y + ux + uy + vx + vy + a + b) * S{}; }
};

// Share of an edge in the area, with what its derivatives need. The edge is cut at y = -b and b to [low, high], where x runs from
// `start` to `end`; the share is (high - low) times the mean of x clamped to [-a, a].
template <class S>
struct Edge {
  using M = decltype(S{} < S{});
  S x0, y0, x1, y1, a, b;
  S low, high, rise, slope, start, end, lo, hi, gap, ratio, mean;
  M level, narrow, low_in, high_in;

  GEO_FN Edge(S x0_, S y0_, S x1_, S y1_, S a_, S b_) : x0(x0_), y0(y0_), x1(x1_), y1(y1_), a(a_), b(b_) {
    const S zero = S{}, half = constant<S>(0.5), tiny = constant<S>(1e-30);
    low = most(least(y0, b), -b), high = most(least(y1, b), -b);
    const S dy = y1 - y0;
    level = magnitude(dy) < tiny;
    rise = pick(level, constant<S>(1), dy);
    slope = pick(level, zero, (x1 - x0) / rise);
    start = x0 + slope * (low - y0), end = x1 + slope * (high - y1);
    lo = least(start, end), hi = most(start, end);
    const S middle = half * (lo + hi);
    constexpr double tight = sizeof(scalar_t<S>) == 4 ? 0x1p-21 : 0x1p-50;  // 4 eps
    const S least_gap = constant<S>(tight) * (a + magnitude(middle)) + tiny;
    narrow = hi - lo < least_gap;
    gap = most(hi - lo, least_gap);
    low_in = lo >= -a, high_in = hi <= a;
    const S above = most(a - lo, zero), below = most(hi + a, zero);
    ratio = pick(low_in, above, pick(high_in, below, hi + lo)) / gap;
    mean = pick(high_in, pick(low_in, middle, half * below * ratio - a), pick(low_in, a - half * above * ratio, a * ratio));
  }

  // A level edge adds nothing to the area, but to its derivatives: an edge that tilts sweeps area.
  GEO_FN S area() const { return (high - low) * mean; }

  // Derivatives by the ends and the half sides, added to the arguments. Ties are halved as autograd does.
  GEO_FN void derive(S& gx0, S& gy0, S& gx1, S& gy1, S& ga, S& gb) const {
    const S zero = S{}, half = constant<S>(0.5), one = constant<S>(1);
    const S q = ratio, square = pick(narrow, zero, half * q * q), inner = a / gap, pull = pick(narrow, zero, inner * q);
    const S by_a = pick(high_in, pick(low_in, zero, q - one), pick(low_in, one - q, q));
    const S by_lo = pick(high_in, pick(low_in, half, square), pick(low_in, q - square, inner + pull));
    const S by_hi = pick(high_in, pick(low_in, half, q - square), pick(low_in, square, inner - pull));
    const S weight = high - low;
    const M rises = start < end, falls = end < start;
    const S mixed = half * (by_lo + by_hi);
    const S gs = weight * pick(rises, by_lo, pick(falls, by_hi, mixed));
    const S ge = weight * pick(rises, by_hi, pick(falls, by_lo, mixed));
    const S gslope = gs * (low - y0) + ge * (high - y1);
    const S glow = gs * slope - mean, ghigh = ge * slope + mean;
    const S turn = pick(level, zero, gslope / rise), lift = turn * slope;
    const S ya = kept(y0), yb = kept(y1), inside0 = bounded(y0), inside1 = bounded(y1);
    gx0 += gs - turn;
    gx1 += ge + turn;
    gy0 += lift - gs * slope + glow * inside0 * ya;
    gy1 += ghigh * inside1 * yb - lift - ge * slope;
    ga += weight * by_a;
    gb += glow * (inside0 * (one - ya) - (one - inside0)) + ghigh * (inside1 * (one - yb) - (one - inside1));
  }

 private:
  static GEO_FN S step(S small, S large) {
    return pick(small < large, constant<S>(1), pick(small == large, constant<S>(0.5), S{}));
  }
  GEO_FN S kept(S y) const { return step(y, b); }                // share of y in min(y, b)
  GEO_FN S bounded(S y) const { return step(-b, least(y, b)); }  // share of that in max(., -b)
};

template <class S>
GEO_FN S outline_area(const Placed<S>& p) {
  S sum = S{};
  for (int i = 0; i < 4; ++i) {
    const int k = (i + 1) % 4;
    sum = sum + Edge<S>(p.corner_x(i), p.corner_y(i), p.corner_x(k), p.corner_y(k), p.a, p.b).area();
  }
  return sum;
}

template <class S>
GEO_FN S intersection(const Box<S>& first, const Box<S>& second) {
  const Placed<S> p(first, second);
  const S poison = p.poison();
  return pick(p.apart(first), S{}, most(outline_area(p), S{})) + poison;
}

// Area of the overlap over that of the union, or of the first box; 0 without area.
template <class S>
GEO_FN S ratio_of(const Box<S>& first, const Box<S>& second, S shared, bool of_first) {
  const S zero = S{}, area = first.w * first.h;
  const S whole = of_first ? area : area + second.w * second.h - shared;
  return pick(whole > zero, shared / pick(whole > zero, whole, constant<S>(1)), zero);
}

template <class S>
GEO_FN S overlap_ratio(const Box<S>& first, const Box<S>& second, bool of_first) {
  return ratio_of(first, second, intersection(first, second), of_first);
}

// The same with the overlap held to the area of the smaller box, beyond which rounding can take it.
template <class S>
GEO_FN S held_ratio(const Box<S>& first, const Box<S>& second, bool of_first) {
  const S held = least(least(first.w * first.h, second.w * second.h), intersection(first, second));  // NaN stays
  return ratio_of(first, second, held, of_first);
}

// The overlap and its gradient; `off` where the boxes are apart, which is where the gradient is zero.
template <class S>
struct Slopes {
  S area, poison;
  decltype(S{} < S{}) off;
  Box<S> g1, g2;

  GEO_FN Slopes(const Box<S>& first, const Box<S>& second) {
    const S zero = S{}, half = constant<S>(0.5);
    const Placed<S> p(first, second);
    S gx[4] = {zero, zero, zero, zero}, gy[4] = {zero, zero, zero, zero}, ga = zero, gb = zero;
    area = zero;
    for (int i = 0; i < 4; ++i) {
      const int k = (i + 1) % 4;
      const Edge<S> edge(p.corner_x(i), p.corner_y(i), p.corner_x(k), p.corner_y(k), p.a, p.b);
      area = area + edge.area();
      edge.derive(gx[i], gy[i], gx[k], gy[k], ga, gb);
    }
    const S x = gx[0] + gx[1] + gx[2] + gx[3], y = gy[0] + gy[1] + gy[2] + gy[3];
    const S ux = gx[1] + gx[2] - gx[0] - gx[3], uy = gy[1] + gy[2] - gy[0] - gy[3];
    const S vx = gx[2] + gx[3] - gx[0] - gx[1], vy = gy[2] + gy[3] - gy[0] - gy[1];
    const S by_c = half * (first.w * ux + first.h * vy), by_s = half * (first.w * uy - first.h * vx);
    const S turn = p.c * by_s - p.s * by_c, dx = p.cb * x - p.sb * y, dy = p.sb * x + p.cb * y;
    g1 = {dx, dy, half * (p.c * ux + p.s * uy), half * (p.c * vy - p.s * vx), turn};
    g2 = {-dx, -dy, half * ga, half * gb, x * p.y - y * p.x - turn};
    off = p.apart(first) | (area < zero);
    poison = p.poison();
  }

  // Gradient of scale times the overlap, plus by_w and by_h; zero where the boxes are apart, even times infinity.
  GEO_FN Box<S> weighted(const Box<S>& g, S scale, S by_w, S by_h) const {
    const auto out = [&](S slope, S more) { return pick(off, S{}, scale * slope + more) + poison; };
    return {out(g.x, S{}), out(g.y, S{}), out(g.w, by_w), out(g.h, by_h), out(g.t, S{})};
  }
};

// Gradient of `weight` times the overlap.
template <class S>
GEO_FN void intersection_gradient(const Box<S>& first, const Box<S>& second, S weight, Box<S>& g1, Box<S>& g2) {
  const Slopes<S> slopes(first, second);
  g1 = slopes.weighted(slopes.g1, weight, S{}, S{}), g2 = slopes.weighted(slopes.g2, weight, S{}, S{});
}

// Gradient of `weight` times the ratio, the overlap not held to the smaller box.
template <class S>
GEO_FN void ratio_gradient(const Box<S>& first, const Box<S>& second, S weight, bool of_first, Box<S>& g1, Box<S>& g2) {
  const S zero = S{}, one = constant<S>(1), area1 = first.w * first.h;
  const Slopes<S> slopes(first, second);
  const S whole = of_first ? area1 : area1 + second.w * second.h - slopes.area;
  const auto some = whole > zero;
  const S scale = pick(some, weight / pick(some, whole, one), zero), ratio = slopes.area / pick(some, whole, one);
  const S by_shared = of_first ? scale : scale + scale * ratio, by_area = -scale * ratio, by_second = of_first ? zero : by_area;
  g1 = slopes.weighted(slopes.g1, by_shared, by_area * first.h, by_area * first.w);
  g2 = slopes.weighted(slopes.g2, by_shared, by_second * second.h, by_second * second.w);
}

}  // namespace GEO_ISA
}  // namespace geo
