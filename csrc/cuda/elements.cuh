// Input elements and packs of them: what one load instruction brings to a thread.
//
// A pack is kept as 32-bit words of input bits. Magnitudes are compared in the input's own format, two halves at a
// time, as patterns whose integer order is that of the magnitudes, NaN above infinity above all numbers.
#pragma once

#include "../division.h"

namespace fp8bench {

#ifdef __CUDACC__ // a host that emulates the kernels (tests/emulation) brings its own

// The larger of the numbers in the low and in the high halves; of NaN and a number: NaN.
static __device__ __forceinline__ uint32_t larger_halves_bf16(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

static __device__ __forceinline__ uint32_t larger_halves_f16(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

static __device__ __forceinline__ float half_to_float(uint16_t half) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(half));
  return result;
}

#endif

// An input dtype has: Storage, its bits; magnitudes(word), without signs; larger(a, b), of two words of magnitudes;
// pattern(word), the largest of its magnitudes; value(pattern); element(word, i).
struct Bfloat16 {
  using Storage = uint16_t;
  static __device__ __forceinline__ uint32_t magnitudes(uint32_t word) { return word & 0x7FFF7FFF; }
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    return larger_halves_bf16(a, b);
  }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return max(word & 0xFFFF, word >> 16); }
  static __device__ __forceinline__ float value(uint32_t pattern) { return __uint_as_float(pattern << 16); }
  static __device__ __forceinline__ float element(uint32_t word, int i) {
    return __uint_as_float(i == 0 ? word << 16 : word & 0xFFFF0000);
  }
};

struct Float16 {
  using Storage = uint16_t;
  static __device__ __forceinline__ uint32_t magnitudes(uint32_t word) { return word & 0x7FFF7FFF; }
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    return larger_halves_f16(a, b);
  }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return max(word & 0xFFFF, word >> 16); }
  static __device__ __forceinline__ float value(uint32_t pattern) {
    return half_to_float(static_cast<uint16_t>(pattern));
  }
  static __device__ __forceinline__ float element(uint32_t word, int i) { return value(i == 0 ? word : word >> 16); }
};

struct Float32 {
  using Storage = uint32_t;
  static __device__ __forceinline__ uint32_t magnitudes(uint32_t word) { return word & kMagnitude; }
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) { return max(a, b); }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return word; }
  static __device__ __forceinline__ float value(uint32_t pattern) { return __uint_as_float(pattern); }
  static __device__ __forceinline__ float element(uint32_t word, int) { return __uint_as_float(word); }
};

// Two codes, the first in the low byte.
static __device__ __forceinline__ uint32_t encode_two(float first, float second) {
#if __CUDA_ARCH__ >= 890
  uint16_t codes; // satfinite is the definition's clamp: beyond +-448 and infinity give +-448, NaN gives 0x7F
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
#else
  return encode(first) | encode(second) << 8;
#endif
}

// 16 bytes of neighbouring elements, from an address that is a multiple of 16.
template <class Dtype> struct Vector {
  using Input = Dtype;
  using Storage = typename Input::Storage;
  static constexpr int kElements = 16 / sizeof(Storage);
  static constexpr int kWords = 4;
  uint32_t words[kWords];

  __device__ __forceinline__ void load(const Storage *x) {
    const uint4 loaded = *reinterpret_cast<const uint4 *>(x);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
  }

  // Each quotient(element) is rounded to a code; `codes` is a multiple of kElements.
  template <class Quotient> __device__ __forceinline__ void store(uint8_t *codes, const Quotient &quotient) const {
    uint32_t out[kElements / 4];
#pragma unroll
    for (int i = 0; i < kElements / 4; ++i) {
      const uint32_t low = encode_two(quotient(element(4 * i)), quotient(element(4 * i + 1)));
      const uint32_t high = encode_two(quotient(element(4 * i + 2)), quotient(element(4 * i + 3)));
      out[i] = low | high << 16;
    }
    if constexpr (kElements == 8) *reinterpret_cast<uint2 *>(codes) = make_uint2(out[0], out[1]);
    else *reinterpret_cast<uint32_t *>(codes) = out[0];
  }

private:
  __device__ __forceinline__ float element(int i) const {
    constexpr int kInWord = 4 / sizeof(Storage);
    return Input::element(words[i / kInWord], i % kInWord);
  }
};

// One element, at any address: for sizes and pointers that vectors do not fit.
template <class Dtype> struct Single {
  using Input = Dtype;
  using Storage = typename Input::Storage;
  static constexpr int kElements = 1;
  static constexpr int kWords = 1;
  uint32_t words[kWords]; // a 16-bit element has zeros above it

  __device__ __forceinline__ void load(const Storage *x) { words[0] = *x; }

  template <class Quotient> __device__ __forceinline__ void store(uint8_t *codes, const Quotient &quotient) const {
    *codes = static_cast<uint8_t>(encode_two(quotient(Input::element(words[0], 0)), 0.0f));
  }
};

struct Scale {
  float value;
  bool computed; // from the absmax of its own elements, so that none is above 448 times the scale

  __device__ __forceinline__ bool is_own() const { return computed && bits_of(value) < kInfinity; }
};

// The packs of one thread, in registers. Pack v is number first + v * stride of the `count` packs at `x`, all of them
// below 2^32.
template <class Pack, int kPacks> struct Packs {
  using Input = typename Pack::Input;
  Pack packs[kPacks];

  // Packs beyond `count` become zeros, which change no maximum.
  __device__ __forceinline__ void load(const typename Input::Storage *x, uint32_t first, uint32_t stride,
                                       uint32_t count) {
#pragma unroll
    for (int v = 0; v < kPacks; ++v) {
#pragma unroll
      for (int w = 0; w < Pack::kWords; ++w) packs[v].words[w] = 0;
      if (first + v * stride < count) packs[v].load(x + static_cast<size_t>(first + v * stride) * Pack::kElements);
    }
  }

  // Pattern of the largest magnitude. Words at the same place in their packs first: short chains of operations.
  __device__ __forceinline__ uint32_t largest() const {
    uint32_t words[Pack::kWords];
#pragma unroll
    for (int w = 0; w < Pack::kWords; ++w) {
      words[w] = Input::magnitudes(packs[0].words[w]);
#pragma unroll
      for (int v = 1; v < kPacks; ++v) words[w] = Input::larger(words[w], Input::magnitudes(packs[v].words[w]));
    }
#pragma unroll
    for (int w = 1; w < Pack::kWords; ++w) words[0] = Input::larger(words[0], words[w]);
    return Input::pattern(words[0]);
  }

  // Codes of the packs below `count`.
  __device__ __forceinline__ void store(uint8_t *codes, uint32_t first, uint32_t stride, uint32_t count,
                                        const Scale &scale) const {
    if (scale.is_own()) store_with(codes, first, stride, count, DivisionByOwnScale(scale.value));
    else store_with(codes, first, stride, count, DivisionByAnyScale(scale.value));
  }

  template <class Quotient>
  __device__ __forceinline__ void store_with(uint8_t *codes, uint32_t first, uint32_t stride, uint32_t count,
                                             const Quotient &quotient) const {
#pragma unroll
    for (int v = 0; v < kPacks; ++v)
      if (first + v * stride < count)
        packs[v].store(codes + static_cast<size_t>(first + v * stride) * Pack::kElements, quotient);
  }
};

} // namespace fp8bench
