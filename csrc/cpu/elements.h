// Input elements and the two loops over neighbouring ones that every family is made of.
//
// Elements are handled as bit patterns: the magnitudes of floats are ordered like their bits, NaN above all, so the
// largest magnitude is an integer maximum, and a NaN wins it as the definition demands.
#pragma once

#include "../fp8bench.h"
#include "../numerics.h"

namespace fp8bench {

struct Bfloat16 {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7FFF;
  FP8BENCH_INLINE float value(Bits bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
};

struct Float16 {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7FFF;
  FP8BENCH_INLINE float value(Bits bits) {
    const uint32_t magnitude = bits & kMagnitude;
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t rebias = magnitude < 0x7C00 ? (127 - 15) << 23 : (255 - 31) << 23; // infinity and NaN to the top
    const uint32_t normal = (magnitude << 13) + rebias;
    const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    return float_of((magnitude < 0x0400 ? subnormal : normal) | sign);
  }
};

struct Float32 {
  using Bits = uint32_t;
  static constexpr Bits kMagnitude = 0x7FFFFFFF;
  FP8BENCH_INLINE float value(Bits bits) { return float_of(bits); }
};

// Largest magnitude of `count` elements, as bits; 0 of none.
template <class T> FP8BENCH_INLINE typename T::Bits absmax(const typename T::Bits *x, int64_t count) {
  typename T::Bits largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const typename T::Bits magnitude = x[i] & T::kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// Codes of `count` elements that share a scale.
template <class T>
FP8BENCH_INLINE void encode_all(const typename T::Bits *__restrict x, int64_t count, float scale,
                                uint8_t *__restrict codes) {
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(encode(T::value(x[i]) / scale));
}

// The first element of a row.
template <class T> FP8BENCH_INLINE const typename T::Bits *row_of(const fp8bench_args &args, int64_t row) {
  return static_cast<const typename T::Bits *>(args.x) + row * args.x_stride;
}

} // namespace fp8bench
