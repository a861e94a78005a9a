// The numbers of FP8 quantization, once for host and device; their meaning is defined in fp8bench/reference.py.
//
//   scale = max(absmax / 448, 1 / (448 * 512))                float32
//   code  = round_to_nearest_even(clamp(x / scale, +-448))    float32, true division
//
// Everything works on bit patterns without branches, so that host compilers turn loops over it into vector code, and
// NaN and infinity need no float comparison: the magnitudes of floats are ordered like their bits, infinity above
// all numbers and NaN above infinity. Compile without contraction and without fast-math.
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define FP8BENCH_INLINE static __host__ __device__ __forceinline__
#else
#define FP8BENCH_INLINE static inline __attribute__((always_inline))
#endif

namespace fp8bench {

constexpr float kFp8Max = 448.0f;                     // largest finite float8_e4m3fn
constexpr float kMinScale = 1.0f / (448.0f * 512.0f); // the scale of an all-zero group
constexpr uint32_t kNanCode = 0x7F;
constexpr uint32_t kMagnitude = 0x7FFFFFFF; // all bits but the sign
constexpr uint32_t kInfinity = 0x7F800000;

FP8BENCH_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FP8BENCH_INLINE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FP8BENCH_INLINE bool is_nan(float value) { return (bits_of(value) & kMagnitude) > kInfinity; }

// The smallest power of two that is not below `scale`, which is positive and normal; infinity and NaN stay.
FP8BENCH_INLINE float round_up_to_power_of_two(float scale) {
  uint32_t bits = bits_of(scale);
  return (bits & kMagnitude) >= kInfinity ? scale : float_of((bits + 0x007FFFFF) & 0xFF800000);
}

// The scale of a group with this absmax. scale_ub: upper bound of absmax, or null.
FP8BENCH_INLINE float dynamic_scale(float absmax, const float *scale_ub, bool ue8m0) {
  if (scale_ub != nullptr && !is_nan(absmax) && !(*scale_ub >= absmax)) absmax = *scale_ub; // a NaN bound too
  float scale = absmax / kFp8Max;
  if (scale < kMinScale) scale = kMinScale; // NaN stays
  return ue8m0 ? round_up_to_power_of_two(scale) : scale;
}

// float8_e4m3fn code nearest to `y`, ties to even; saturates at +-448, NaN becomes 0x7F, a zero keeps its sign.
FP8BENCH_INLINE uint32_t encode(float y) {
  const uint32_t bits = bits_of(y);
  const uint32_t magnitude = bits & kMagnitude;
  const uint32_t clamped = magnitude < 0x43E00000 ? magnitude : 0x43E00000; // 448
  // 2^-6 and above: round 23 mantissa bits to 3 (a carry moves into the exponent, as it should) and shift the bias.
  const uint32_t normal = ((clamped + 0x0007FFFF + ((clamped >> 20) & 1)) >> 20) - ((127 - 7) << 3);
  // Below: multiples of 2^-9, which is the spacing of floats from 2^14 on, so adding 2^14 rounds as wanted.
  const uint32_t subnormal = bits_of(float_of(clamped) + 16384.0f) - 0x46800000;
  const uint32_t code = (clamped < 0x3C800000 ? subnormal : normal) | ((bits >> 24) & 0x80);
  return magnitude > kInfinity ? kNanCode : code;
}

} // namespace fp8bench
