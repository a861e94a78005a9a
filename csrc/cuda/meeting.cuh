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
constexpr uint32_t kDelay = 300;        // cycles before the first look: one takes some 675, and too soon is in vain
constexpr int kPatience = 64;           // looks
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
  constexpr uint32_t kWords = 16 / sizeof(Word), kLoads = 2, kStep = kWarp * kWords; // kLoads are on their way at once
  const Word *shown = mine_of<Word>(meeting).shown, upper = upper_half<Word>(number);
  Word largest = 0, others = 0;
#pragma unroll 1
  for (uint32_t block = threadIdx.x % kWarp * kWords; block < gridDim.x; block += kLoads * kStep) {
    Word words[kLoads][kWords];
#pragma unroll
    for (uint32_t i = 0; i < kLoads; ++i) {
      for (Word &word : words[i]) word = upper;
      if (block + i * kStep < gridDim.x) look_at_some(shown + block + i * kStep, words[i]);
    }
#pragma unroll
    for (uint32_t i = 0; i < kLoads; ++i)
      for (Word word : words[i]) word ^= upper, others |= word, largest = max(largest, word);
  }
  value = static_cast<uint32_t>(largest);
  return __all_sync(kAllLanes, others >> kHalf<Word> == 0);
}

// A warp, which has shown the largest magnitude of its block, looks until all have. False if its patience is over; else
// `value` is the largest of all.
template <class Word>
static __device__ __forceinline__ bool look_patiently(Meeting<Word> &meeting, uint32_t number, uint32_t &value) {
  const uint32_t shown = clock_of_multiprocessor();
  while (clock_of_multiprocessor() - shown < kDelay) {}
  for (int looks = 0; looks < kPatience; ++looks)
    if (look_at_all<Word>(meeting, number, value)) {
      value = max_of_lanes<kWarp>(value);
      return true;
    }
  return false;
}

// A block looks for what others have not shown, and shows it. part_of(block): the largest magnitude of what the thread
// of that block has with this one's number. Blocks start in order, so the last are missing: the first begin there, each
// at another one, and then go on in scattered places, so that they help each other. The first thread knows the number.
// Ends with a barrier.
template <class Word, class Part>
static __device__ __forceinline__ void show_missing(Meeting<Word> &meeting, uint32_t number,
                                                    uint32_t (&slots)[kMostWarps], const Part &part_of) {
  __shared__ uint32_t of_first;
  if (threadIdx.x == 0) of_first = number;
  __syncthreads();
  number = of_first;
  for (uint32_t begin = gridDim.x - blockIdx.x;;) { // of a circle of blocks
    uint32_t left = 0; // of the circle, from the first that is missing
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
      const uint32_t block = (begin + i) % gridDim.x;
      const Word word = look_at(&mine_of<Word>(meeting).shown[block]) ^ upper_half<Word>(number);
      if (word >> kHalf<Word> != 0) left = max(left, gridDim.x - i);
    }
    __syncthreads();
    left = max_of_block<true>(left, slots);
    __syncthreads();
    if (left == 0) return;
    const uint32_t missing = (begin + gridDim.x - left) % gridDim.x;
    const uint32_t largest = max_of_block<true>(part_of(missing), slots);
    if (threadIdx.x < kWarp) show_largest<Word>(meeting, number, missing, largest);
    __syncthreads();
    begin = missing * 37 + blockIdx.x * 73; // anywhere, and elsewhere in each block
  }
}

// Half a word does not hold all numbers. So that no word is as old as the number that it is taken for, all words of
// blocks that there are not are renewed from time to time, by a warp of each block.
template <class Word> static __device__ __forceinline__ void renew(Meeting<Word> &meeting, uint32_t number) {
  if (number % kRenewed != 0) return;
  for (uint32_t block = blockIdx.x + gridDim.x; block < kMostMeeting; block += gridDim.x)
    show_largest<Word>(meeting, number, block, 0);
}

} // namespace fp8bench
