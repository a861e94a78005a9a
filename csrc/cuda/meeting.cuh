// How the blocks of a grid agree on a largest magnitude while they run.
//
// Each block shows the others its own and waits for theirs. They need not run at the same time: a block that has waited
// long looks itself for what is missing, and shows that too. So calls on several streams, whose blocks take each
// other's places on the machine, cannot wait for each other for ever; they are slow then, and right.
#pragma once

#include "device.cuh"

namespace fp8bench {

constexpr int kMostMeeting = 256;       // blocks
constexpr int kCopies = 8;              // of what they share: a place in memory that all look at answers slowly
constexpr int kPatience = 64;           // looks; one takes some 0.4 us
constexpr uint32_t kRenewed = 1u << 12; // meetings between two that renew all words

// What the blocks share, as many times as there are copies: each block looks at one of them. Zero before its first use,
// and left to these functions from then on. A word has the number of a meeting in its upper half and the pattern of a
// largest magnitude in its lower half.
template <class Word> struct MeetingCopy {
  alignas(16) Word shown[kMostMeeting]; // the word of each block
  uint64_t past;                        // upper half: how many meetings are over
  uint64_t unused[15];                  // a line of memory
};
template <class Word> using Meeting = MeetingCopy<Word>[kCopies];

template <class Word> static __device__ __forceinline__ MeetingCopy<Word> &mine_of(Meeting<Word> &meeting) {
  return meeting[blockIdx.x % kCopies];
}

// The number of this meeting, to be asked before a barrier of the block. (No arithmetic, which would wait for it.)
template <class Word> static __device__ __forceinline__ uint32_t number_of(Meeting<Word> &meeting) {
  return static_cast<uint32_t>(look_at(&mine_of<Word>(meeting).past) >> 32);
}

// Once for each block, behind that barrier. After the last the meeting is over, however many blocks there are (a
// multiple of kCopies): the next kernel on the stream finds another number.
template <class Word> static __device__ __forceinline__ void leave(Meeting<Word> &meeting) {
  constexpr uint64_t kOne = uint64_t{1} << 32, kPart = kOne / kMostMeeting;
  const uint64_t rest = kOne - (gridDim.x / kCopies - 1) * kPart;
  add(&mine_of<Word>(meeting).past, blockIdx.x < kCopies ? rest : kPart);
}

// What words of this meeting have in their upper half, and no word in memory that is zero.
template <class Word> constexpr int kHalf = 4 * sizeof(Word); // bits
template <class Word> static __device__ __forceinline__ Word upper_half(uint32_t number) {
  return static_cast<Word>(number + 1) << kHalf<Word>;
}

// A warp fetches what it will look at.
template <class Word> static __device__ __forceinline__ void look_ahead(Meeting<Word> &meeting) {
  fetch_to_cache(&mine_of<Word>(meeting).shown[threadIdx.x % kWarp * (kMostMeeting / kWarp)]);
}

// A warp shows the largest magnitude of `block`.
template <class Word>
static __device__ __forceinline__ void show_largest(Meeting<Word> &meeting, uint32_t number, uint32_t block,
                                                    uint32_t value) {
  const uint32_t copy = threadIdx.x % kWarp;
  if (copy < kCopies) show(&meeting[copy].shown[block], upper_half<Word>(number) | value);
}

// A warp looks at all blocks, whose number is a multiple of 4. False if some have shown nothing; else `value` is the
// largest of what this lane saw.
template <class Word>
static __device__ __forceinline__ bool look_at_all(Meeting<Word> &meeting, uint32_t number, uint32_t &value) {
  constexpr int kWords = 16 / sizeof(Word); // one load
  const Word *shown = mine_of<Word>(meeting).shown, upper = upper_half<Word>(number);
  Word largest = 0, others = 0;
#pragma unroll 1
  for (uint32_t block = threadIdx.x % kWarp * kWords; block < gridDim.x; block += kWarp * kWords) {
    Word words[kWords];
    look_at_some(shown + block, words);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] ^= upper, others |= words[i], largest = max(largest, words[i]);
  }
  value = static_cast<uint32_t>(largest);
  return __all_sync(kAllLanes, others >> kHalf<Word> == 0);
}

// A warp looks for what other blocks have not shown, and shows it. largest_of(block): of what is the block's. Blocks
// start in order, so the last are missing: the first begin there, each at another one, so that they help each other.
template <class Word, class Largest>
static __device__ __forceinline__ void show_missing(Meeting<Word> &meeting, uint32_t number,
                                                    const Largest &largest_of) {
  const uint32_t last = gridDim.x - 1 - blockIdx.x;
  uint32_t block = last;
#pragma unroll 1
  do {
    block = block + 1 < gridDim.x ? block + 1 : 0;
    const Word word = look_at(&mine_of<Word>(meeting).shown[block]) ^ upper_half<Word>(number);
    if (!__all_sync(kAllLanes, word >> kHalf<Word> == 0)) show_largest<Word>(meeting, number, block, largest_of(block));
  } while (block != last);
}

// Over all blocks of the grid, by one warp of each, behind a barrier of the block; all lanes of the warp get it.
template <class Word, class Largest>
static __device__ __forceinline__ uint32_t max_of_grid(Meeting<Word> &meeting, uint32_t number, uint32_t value,
                                                       const Largest &largest_of) {
  show_largest<Word>(meeting, number, blockIdx.x, value);
  for (int looks = 1; !look_at_all<Word>(meeting, number, value); ++looks)
    if (looks % kPatience == 0) show_missing<Word>(meeting, number, largest_of);
  return max_of_lanes<kWarp>(value);
}

// Half a word does not hold all numbers. So that no word is as old as the number that it is taken for, all words of
// blocks that there are not are renewed from time to time, by a warp of each block.
template <class Word> static __device__ __forceinline__ void renew(Meeting<Word> &meeting, uint32_t number) {
  if (number % kRenewed != 0) return;
  for (uint32_t block = blockIdx.x + gridDim.x; block < kMostMeeting; block += gridDim.x)
    show_largest<Word>(meeting, number, block, 0);
}

} // namespace fp8bench
