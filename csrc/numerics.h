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
#define FP8BENCH_MEMBER __host__ __device__ __forceinline__
#else
#define FP8BENCH_MEMBER inline __attribute__((always_inline))
#endif
#define FP8BENCH_INLINE static FP8BENCH_MEMBER

namespace fp8bench {

constexpr float kFp8Max = 448.0f;                     // largest finite float8_e4m3fn
constexpr float kMinScale = 1.0f / (448.0f * 512.0f); // the scale of an all-zero group
constexpr uint32_t kNanCode = 0x7F;
constexpr uint32_t kMagnitude = 0x7FFFFFFF; // all bits but the sign
constexpr uint32_t kInfinity = 0x7F800000;
constexpr uint32_t kFp8MaxBits = 0x43E00000;         // 448
constexpr uint32_t kSmallestNormalBits = 0x3C800000; // 2^-6, the smallest normal float8_e4m3fn

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

FP8BENCH_INLINE float fused_multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// absmax / 448 without division: two fused operations correct the product with 1 / 448. Exact for every result that is
// normal; smaller ones are far below the least scale.
FP8BENCH_INLINE float over_fp8_max(float absmax) {
  constexpr float kReciprocal = 1.0f / kFp8Max;
  const float quotient = absmax * kReciprocal;
  const float excess = fused_multiply_add(quotient, kFp8Max, -absmax);
  const float corrected = fused_multiply_add(excess, -kReciprocal, quotient);
  return (bits_of(absmax) & kMagnitude) >= kInfinity ? absmax : corrected;
}

// The scale of a group with this absmax. scale_ub: upper bound of absmax, or null.
FP8BENCH_INLINE float dynamic_scale(float absmax, const float *scale_ub, bool ue8m0) {
  if (scale_ub != nullptr && !is_nan(absmax) && !(*scale_ub >= absmax)) absmax = *scale_ub; // a NaN bound too
#ifdef __CUDA_ARCH__
  float scale = over_fp8_max(absmax);
#else
  float scale = absmax / kFp8Max; // a host without fused operations computes them slowly
#endif
  if (scale < kMinScale) scale = kMinScale; // NaN stays
  return ue8m0 ? round_up_to_power_of_two(scale) : scale;
}

// float8_e4m3fn code nearest to `y`, ties to even; saturates at +-448, NaN becomes 0x7F, a zero keeps its sign.
//
// Codes are 1/8 of the power of two below |y| apart, and 2^-9 below 2^-6. Floats are just so far apart from 2^20 times
// that power on, so adding it rounds |y| as wanted, and leaves the number of steps, 8 to 16 (below 2^-6: 0 to 8), in
// the last bits of the sum. The exponent makes the rest of the code, carries included.
FP8BENCH_INLINE uint32_t encode(float y) {
  const uint32_t bits = bits_of(y);
  const uint32_t magnitude = bits & kMagnitude;
  const uint32_t clamped = magnitude < kFp8MaxBits ? magnitude : kFp8MaxBits;
  const uint32_t power = (clamped > kSmallestNormalBits ? clamped : kSmallestNormalBits) & kInfinity;
  // Its exponent field counts steps of 8 codes, with 8 * (127 - 7 + 20 + 1) = 1128 too many; -1128 ends in the byte
  // 152, which waits in the mantissa, where it costs nothing and is even, so that ties stay ties.
  const uint32_t magic = power + (20u << 23) + 152;
  const uint32_t code = bits_of(float_of(clamped) + float_of(magic)) + (magic >> 20);
  // The code is made in the top byte: a compiler that sees eight bits in the bottom packs each operand by itself.
  const uint32_t top = magnitude > kInfinity ? kNanCode << 24 : (code << 24) | (bits & ~kMagnitude);
  return top >> 24;
}

} // namespace fp8bench
