// True division of elements by a scale, without a division: exact wherever a code could tell. Three forms, by what is
// known of element and scale; kernels take the cheapest.
//
// With r = 1 / scale rounded to nearest, q = x * r is off by at most 1.5 units in the last place, and one correction
// by the exact remainder, q - (q * scale - x) * r, falls on the side of every boundary between codes that the true
// quotient x / scale, rounded to float, falls on. Proof by exhaustion in tests/test_division.py: all scale mantissas,
// all boundaries, all floats near the boundary times the scale. Farther away q alone decides rightly.
#pragma once

#include "numerics.h"

namespace fp8bench {

// 1 / value within one unit in the last place, for 2^-125 <= value < 2^125.
FP8BENCH_INLINE float estimated_reciprocal(float value) {
#ifdef __CUDA_ARCH__
  float estimate;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(estimate) : "f"(value));
  return estimate;
#else
  return 1.0f / value;
#endif
}

// The same rounded to nearest.
FP8BENCH_INLINE float reciprocal_of(float value) {
#ifdef __CUDA_ARCH__
  const float estimate = estimated_reciprocal(value); // then what __frcp_rn does, without its branch for others
  return __fmaf_rn(-__fmaf_rn(estimate, value, -1.0f), estimate, estimate);
#else
  return 1.0f / value;
#endif
}

FP8BENCH_INLINE float corrected_quotient(float quotient, float x, float scale, float reciprocal) {
  const float excess = fused_multiply_add(quotient, scale, -x); // this sign keeps that of a zero
  return fused_multiply_add(excess, -reciprocal, quotient); // not -excess: compilers turn that into another zero
}

// By a finite computed scale, at least 2^-18, that no element exceeds 448 times: nothing overflows.
struct DivisionByOwnScale {
  float scale, reciprocal;

  DivisionByOwnScale() = default;
  FP8BENCH_MEMBER explicit DivisionByOwnScale(float divisor) : scale(divisor) { reciprocal = reciprocal_of(divisor); }

  FP8BENCH_MEMBER float operator()(float x) const { return corrected_quotient(x * reciprocal, x, scale, reciprocal); }
};

// By such a scale, of 16-bit elements, whose largest magnitude it was computed from: two operations an element.
//
// 1 / scale is the sum of two floats, good for 40 bits. The upper one is below it, so that the lower one is positive
// and the sum of the products keeps the sign of a zero. Proof by exhaustion: all largest magnitudes, all elements, all
// estimates within one unit in the last place.
struct DivisionOfHalves {
  float upper, lower;

  DivisionOfHalves() = default;
  FP8BENCH_MEMBER explicit DivisionOfHalves(float divisor)
      : DivisionOfHalves(divisor, estimated_reciprocal(divisor)) {}
  FP8BENCH_MEMBER DivisionOfHalves(float divisor, float estimate) { // of 1 / divisor
    upper = float_of(bits_of(estimate) - 2);
    lower = fused_multiply_add(-divisor, upper, 1.0f) * upper;
  }

  FP8BENCH_MEMBER float operator()(float x) const { return fused_multiply_add(x, upper, x * lower); }
};

// By any float. Scale and element are first multiplied by the power of two, with the scale's sign, that brings the
// scale to [1, 2).
struct DivisionByAnyScale {
  float mantissa, reciprocal;
  float power, other_power; // two factors, as the power of two itself may be no float

  FP8BENCH_MEMBER explicit DivisionByAnyScale(float divisor) {
    const bool subnormal = (bits_of(divisor) & kMagnitude) < 0x00800000;
    const uint32_t bits = bits_of(subnormal ? divisor * 0x1p64f : divisor);
    const uint32_t sign = bits & 0x80000000, magnitude = bits & kMagnitude;
    const int32_t exponent = static_cast<int32_t>(magnitude >> 23) - 127 - (subnormal ? 64 : 0);
    const int32_t half = -exponent / 2;
    const bool special = magnitude == 0 || magnitude >= kInfinity; // 1 / 0 is infinite, 1 / infinity is 0
    const uint32_t special_power = magnitude > kInfinity ? magnitude : kInfinity - magnitude;
    mantissa = special ? 1.0f : float_of((magnitude & 0x007FFFFF) | 0x3F800000);
    reciprocal = reciprocal_of(mantissa);
    power = float_of(special ? special_power : static_cast<uint32_t>(127 + half) << 23);
    other_power = float_of((special ? 127u : static_cast<uint32_t>(127 - exponent - half)) << 23 | sign);
  }

  FP8BENCH_MEMBER float operator()(float x) const {
    const float scaled = x * power * other_power; // inexact only where the code is 0
    const float quotient = scaled * reciprocal;
    const float corrected = corrected_quotient(quotient, scaled, mantissa, reciprocal);
    return quotient > -1024.0f && quotient < 1024.0f ? corrected : quotient; // beyond, infinity would become NaN
  }
};

} // namespace fp8bench
