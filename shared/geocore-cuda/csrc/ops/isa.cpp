#include "ops/common.h"

#include <cstdlib>
#include <cstring>

namespace geo {

namespace {
int found() {
  int level = 2;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) level = 3;
  if (level == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    level = 4;
  if (const char* wanted = std::getenv("GEOCORE_ISA")) {
    const int cap = std::strcmp(wanted, "base") == 0 ? 2 : std::strcmp(wanted, "v3") == 0 ? 3 : 4;
    if (cap < level) level = cap;
  }
#endif
  return level;
}
}  // namespace

int instruction_set() {
  static const int level = found();
  return level;
}

}  // namespace geo
