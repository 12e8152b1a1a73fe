// A warp as a team for the formulas that share one matrix among threads; blocks of one warp.
#pragma once

namespace geo {

struct Warp {
  template <class F>
  __device__ void each(int count, F f) const {
    for (int i = threadIdx.x; i < count; i += 32) f(i);
    __syncwarp();
  }
};

}  // namespace geo
