// Input elements and packs of them: what one load instruction brings to a thread.
//
// A pack is kept as 32-bit words of input bits. Magnitudes are compared in the input's own format, two halves at a
// time, as patterns whose integer order is that of the magnitudes, NaN above infinity above all numbers.
#pragma once

#include "../division.h"

namespace fp8bench {

#ifdef __CUDACC__ // a host that emulates the kernels (tests/emulation) brings its own

// The largest magnitudes of the low and of the high halves, with some sign; of NaN and a number: NaN.
#if __CUDA_ARCH__ >= 860
#define FP8BENCH_LARGER_HALVES(type, a, b, result)                                                                     \
  asm("max.NaN.xorsign.abs." type " %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b))
#else
#define FP8BENCH_LARGER_HALVES(type, a, b, result)                                                                     \
  asm("max.NaN." type " %0, %1, %2;" : "=r"(result) : "r"((a) & 0x7FFF7FFF), "r"((b) & 0x7FFF7FFF))
#endif

static __device__ __forceinline__ uint32_t larger_halves_bf16(uint32_t a, uint32_t b) {
  uint32_t result;
  FP8BENCH_LARGER_HALVES("bf16x2", a, b, result);
  return result;
}

static __device__ __forceinline__ uint32_t larger_halves_f16(uint32_t a, uint32_t b) {
  uint32_t result;
  FP8BENCH_LARGER_HALVES("f16x2", a, b, result);
  return result;
}

#undef FP8BENCH_LARGER_HALVES

static __device__ __forceinline__ float half_to_float(uint16_t half) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(half));
  return result;
}

#endif

// The larger magnitude in a word of two halves.
static __device__ __forceinline__ uint32_t larger_half(uint32_t word) {
  return max(word & 0x7FFF, word >> 16 & 0x7FFF);
}

// An input dtype has: Storage, its bits; larger(a, b), the largest magnitude at each place of two words, with some
// sign; pattern(word), the largest magnitude in a word; value(pattern); element(word, i); and how to divide by a scale
// that was computed from the elements themselves.
struct Bfloat16 {
  using Storage = uint16_t;
  using DivisionByOwnScale = DivisionOfHalves;
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    return larger_halves_bf16(a, b);
  }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return larger_half(word); }
  static __device__ __forceinline__ float value(uint32_t pattern) { return __uint_as_float(pattern << 16); }
  static __device__ __forceinline__ float element(uint32_t word, int i) {
    return __uint_as_float(i == 0 ? word << 16 : word & 0xFFFF0000);
  }
};

struct Float16 {
  using Storage = uint16_t;
  using DivisionByOwnScale = DivisionOfHalves;
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    return larger_halves_f16(a, b);
  }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return larger_half(word); }
  static __device__ __forceinline__ float value(uint32_t pattern) {
    return half_to_float(static_cast<uint16_t>(pattern));
  }
  static __device__ __forceinline__ float element(uint32_t word, int i) { return value(i == 0 ? word : word >> 16); }
};

struct Float32 {
  using Storage = uint32_t;
  using DivisionByOwnScale = fp8bench::DivisionByOwnScale;
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    return max(a & kMagnitude, b & kMagnitude);
  }
  static __device__ __forceinline__ uint32_t pattern(uint32_t word) { return word & kMagnitude; }
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

  __device__ __forceinline__ void clear() { words[0] = words[1] = words[2] = words[3] = 0; }
  __device__ __forceinline__ void load(const Storage *x) {
    const uint4 loaded = *reinterpret_cast<const uint4 *>(x);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
  }

  // Each quotient(element) is rounded to a code; `codes` is a multiple of kElements. kStreamed: no cache keeps them.
  template <bool kStreamed, class Quotient>
  __device__ __forceinline__ void store(uint8_t *codes, const Quotient &quotient) const {
    uint32_t out[kElements / 4];
#pragma unroll
    for (int i = 0; i < kElements / 4; ++i) {
      const uint32_t low = encode_two(quotient(element(4 * i)), quotient(element(4 * i + 1)));
      const uint32_t high = encode_two(quotient(element(4 * i + 2)), quotient(element(4 * i + 3)));
      out[i] = low | high << 16;
    }
    if constexpr (kElements == 8) store_at<kStreamed>(reinterpret_cast<uint2 *>(codes), make_uint2(out[0], out[1]));
    else store_at<kStreamed>(reinterpret_cast<uint32_t *>(codes), out[0]);
  }

private:
  template <bool kStreamed, class Words> static __device__ __forceinline__ void store_at(Words *codes, Words words) {
    if constexpr (kStreamed) __stcs(codes, words);
    else *codes = words;
  }

  __device__ __forceinline__ float element(int i) const {
    constexpr int kInWord = 4 / sizeof(Storage);
    return Input::element(words[i / kInWord], i % kInWord);
  }
};

// One element, at any address: for what vectors do not fit.
template <class Dtype> struct Single {
  using Input = Dtype;
  using Storage = typename Input::Storage;
  static constexpr int kElements = 1;
  static constexpr int kWords = 1;
  uint32_t words[kWords]; // a 16-bit element has zeros above it

  __device__ __forceinline__ void clear() { words[0] = 0; }
  __device__ __forceinline__ void load(const Storage *x) { words[0] = *x; }

  template <bool, class Quotient>
  __device__ __forceinline__ void store(uint8_t *codes, const Quotient &quotient) const {
    *codes = static_cast<uint8_t>(encode_two(quotient(Input::element(words[0], 0)), 0.0f));
  }
};

struct Scale {
  float value;
  bool computed; // from the absmax of its own elements, so that none is above 448 times the scale

  __device__ __forceinline__ bool is_own() const { return computed && bits_of(value) < kInfinity; }
};

// Which of a thread's packs there are: the bound of packs in a piece of memory, which begins with the first of them.
struct AnyBound {
  static constexpr bool kStreamed = false; // whether caches need not keep codes
};
struct Below : AnyBound { // those below `count`; in place of the others are zeros, which change no maximum
  static constexpr uint32_t head = 0;
  uint32_t count;
  __device__ __forceinline__ Below(uint32_t count) : count(count) {}
  __device__ __forceinline__ bool has(uint32_t first, uint32_t step) const { return first + step < count; }
  __device__ __forceinline__ size_t at(uint32_t first, uint32_t step) const { return first + step; }
};
struct UpTo : AnyBound { // in place of those beyond `last` is `last` again: nobody asks, and the same is written again
  static constexpr uint32_t head = 0;
  uint32_t last;
  __device__ __forceinline__ UpTo(uint32_t last) : last(last) {}
  __device__ __forceinline__ bool has(uint32_t, uint32_t) const { return true; }
  __device__ __forceinline__ size_t at(uint32_t first, uint32_t step) const { return min(first + step, last); }
};
struct UpToStreamed : UpTo {
  static constexpr bool kStreamed = true;
  using UpTo::UpTo;
};
struct All : AnyBound { // a thread has all its packs
  __device__ __forceinline__ All(uint32_t) {}
  __device__ __forceinline__ bool has(uint32_t, uint32_t) const { return true; }
  __device__ __forceinline__ size_t at(uint32_t first, uint32_t step) const { return size_t{first} + step; }
};

// The packs of one thread, in registers. Pack v is number first + v * stride of those at `x`, all below 2^32.
template <class Pack, int kPacks> struct Packs {
  using Input = typename Pack::Input;
  Pack packs[kPacks];

  template <class Bound>
  __device__ __forceinline__ void load(const typename Input::Storage *x, uint32_t first, uint32_t stride,
                                       const Bound &bound) {
#pragma unroll
    for (int v = 0; v < kPacks; ++v) {
      if (bound.has(first, v * stride)) packs[v].load(x + bound.at(first, v * stride) * Pack::kElements);
      else packs[v].clear();
    }
  }

  // Pattern of the largest magnitude. Words at the same place in their packs first: short chains of operations.
  __device__ __forceinline__ uint32_t largest() const {
    uint32_t words[Pack::kWords];
#pragma unroll
    for (int w = 0; w < Pack::kWords; ++w) {
      words[w] = packs[0].words[w];
#pragma unroll
      for (int v = 1; v < kPacks; ++v) words[w] = Input::larger(words[w], packs[v].words[w]);
    }
#pragma unroll
    for (int w = Pack::kWords / 2; w > 0; w /= 2)
#pragma unroll
      for (int i = 0; i < w; ++i) words[i] = Input::larger(words[i], words[i + w]);
    return Input::pattern(words[0]);
  }

  // Codes, by the cheapest division by `scale`.
  template <class Bound>
  __device__ __forceinline__ void store(uint8_t *codes, uint32_t first, uint32_t stride, const Bound &bound,
                                        const Scale &scale) const {
    store(codes, first, stride, bound, scale, typename Input::DivisionByOwnScale(scale.value));
  }

  // The same; `own` is how to divide by `scale` if it is the elements' own.
  template <class Bound>
  __device__ __forceinline__ void store(uint8_t *codes, uint32_t first, uint32_t stride, const Bound &bound,
                                        const Scale &scale, const typename Input::DivisionByOwnScale &own) const {
    if (scale.is_own()) store_with(codes, first, stride, bound, own);
    else store_with(codes, first, stride, bound, DivisionByAnyScale(scale.value));
  }

  template <class Bound, class Quotient>
  __device__ __forceinline__ void store_with(uint8_t *codes, uint32_t first, uint32_t stride, const Bound &bound,
                                             const Quotient &quotient) const {
#pragma unroll
    for (int v = 0; v < kPacks; ++v)
      if (bound.has(first, v * stride))
        packs[v].template store<Bound::kStreamed>(codes + bound.at(first, v * stride) * Pack::kElements, quotient);
  }
};

// ---- Elements that begin and end anywhere -------------------------------------------------------------------
// Whole packs are at the same places in elements and codes: what one load brings, one store writes. At either end fewer
// than a pack are left over, in a pack that neighbours share: each is one thread's, which touches nothing else.

// What a thread takes of those left over: element `mine`, or none. The bound of its one pack of a `Single`.
struct Edge : AnyBound {
  bool there;
  size_t mine;
  __device__ __forceinline__ Edge(bool there, size_t mine) : there(there), mine(mine) {}
  __device__ __forceinline__ bool has(uint32_t, uint32_t) const { return there; }
  __device__ __forceinline__ size_t at(uint32_t, uint32_t) const { return mine; }
};

// `head` elements, then `body` in whole packs, then `tail`.
static __device__ __forceinline__ Edge edge_of(uint32_t thread, uint32_t head, size_t body, uint32_t tail) {
  return {thread < head + tail, thread < head ? thread : thread + body};
}

template <class Input> using EdgePack = Packs<Single<Input>, 1>;

// The bound of `length` elements at `x`.
template <class Pack> struct Anywhere {
  uint32_t head, packs, tail; // elements, packs, elements

  __device__ __forceinline__ Anywhere(const typename Pack::Storage *x, uint32_t length) {
    const auto before = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(x) / sizeof(*x)); // x, in all of memory
    head = min((0 - before) % Pack::kElements, length);
    packs = (length - head) / Pack::kElements, tail = (length - head) % Pack::kElements;
  }
  __device__ __forceinline__ Below whole() const { return {packs}; }
  __device__ __forceinline__ Edge edge(uint32_t thread) const {
    return edge_of(thread, head, size_t{packs} * Pack::kElements, tail);
  }
};

// The packs of one thread, as above, and its element of those left over. `first` is the thread's number: at least as
// many as two packs have elements must share the packs.
template <class Pack, int kPacks> struct PacksAnywhere {
  Packs<Pack, kPacks> packs;
  EdgePack<typename Pack::Input> edge;

  __device__ __forceinline__ void load(const typename Pack::Storage *x, uint32_t first, uint32_t stride,
                                       const Anywhere<Pack> &bound) {
    packs.load(x + bound.head, first, stride, bound.whole());
    edge.load(x, 0, 0, bound.edge(first));
  }
  __device__ __forceinline__ uint32_t largest() const { return max(packs.largest(), edge.largest()); }
  __device__ __forceinline__ void store(uint8_t *codes, uint32_t first, uint32_t stride, const Anywhere<Pack> &bound,
                                        const Scale &scale) const {
    packs.store(codes + bound.head, first, stride, bound.whole(), scale);
    edge.store(codes, 0, 0, bound.edge(first), scale);
  }
};

} // namespace fp8bench
