// csrc/division.h and csrc/numerics.h against true division, for tests/test_division.py.
#include "division.h"

using namespace fp8bench;

namespace {

int side(float value, float boundary) { return (value > boundary) - (value < boundary); }

long wrong_near(float scale, float boundary) {
  const DivisionByOwnScale divided(scale);
  long wrong = 0;
  for (int32_t step = -2; step <= 2; ++step) {
    const float x = float_of(bits_of(scale * boundary) + step);
    wrong += side(divided(x), boundary) != side(x / scale, boundary);
  }
  return wrong;
}

} // namespace

extern "C" {

// Elements near a boundary between codes that DivisionByOwnScale puts on another side of it than division does, for
// the scales in [1, 2) whose mantissas are in [first, last). Boundaries are k / 16 times a power of two, k from 16 to
// 31 (among subnormal codes, all k; among the others, odd k).
long wrong_sides(uint32_t first, uint32_t last) {
  long wrong = 0;
  for (uint32_t mantissa = first; mantissa < last; ++mantissa)
    for (int k = 16; k < 32; ++k) wrong += wrong_near(float_of(0x3F800000 | mantissa), k / 16.0f);
  return wrong;
}

// Mantissas for which over_fp8_max is not the quotient.
long wrong_scales() {
  long wrong = 0;
  for (uint32_t mantissa = 0; mantissa < 1u << 23; ++mantissa) {
    const float absmax = float_of(0x3F800000 | mantissa);
    wrong += bits_of(over_fp8_max(absmax)) != bits_of(absmax / kFp8Max);
  }
  return wrong;
}

// Elements of a 16-bit dtype that DivisionOfHalves gives another code than division does, by the scale of each largest
// magnitude. values: its magnitudes in ascending order. off: of the estimated reciprocal, units in the last place.
long wrong_halves(const float *values, long count, int off) {
  long wrong = 0;
  for (long largest = 0; largest < count; ++largest) {
    const float scale = dynamic_scale(values[largest], nullptr, false);
    if (scale == kMinScale && largest + 1 < count && values[largest + 1] / kFp8Max < kMinScale) continue; // the same
    const DivisionOfHalves divided(scale, float_of(bits_of(estimated_reciprocal(scale)) + off));
    for (long i = 0; i <= largest; ++i) wrong += encode(divided(values[i])) != encode(values[i] / scale);
  }
  return wrong;
}

// Elements whose code differs from that of the true quotient; the last one is stored in `x_out`, `scale_out`.
long wrong_codes(const float *scales, long scale_count, const float *x, long x_count, int own, float *out) {
  long wrong = 0;
  for (long s = 0; s < scale_count; ++s) {
    const DivisionByOwnScale by_own(scales[s]);
    const DivisionByAnyScale by_any(scales[s]);
    for (long i = 0; i < x_count; ++i) {
      const float quotient = own ? by_own(x[i]) : by_any(x[i]);
      if (encode(quotient) == encode(x[i] / scales[s])) continue;
      out[0] = x[i], out[1] = scales[s];
      ++wrong;
    }
  }
  return wrong;
}

} // extern "C"
