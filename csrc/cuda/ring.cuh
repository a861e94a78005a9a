// One scale for a tensor that the registers of the machine do not hold: one kernel, whose blocks meet. Shared memory
// keeps what a block read last, and the L2 much of what all blocks read before that.
#pragma once

#include "tensor.cuh"

namespace fp8bench {

constexpr int kRingThreads = 1024;
constexpr int kRingSlots = 14; // packs of a thread that shared memory keeps
constexpr int kRingAhead = 8;  // of them, how many are on their way at once
constexpr int kRingBytes = kRingThreads * kRingSlots * 16;

// A thread's packs in shared memory: that of a step has a slot, until kRingSlots steps later another one needs it. They
// come by themselves, and are counted in the order in which they were asked for.
template <class Pack> struct Ring {
  uint4 *slots; // of this thread, kRingThreads apart

  // The pack of `step` will come from `x`, or none, so that copies can still be counted. spare: the L2 need not
  // keep it.
  __device__ __forceinline__ void ask(uint32_t step, const typename Pack::Storage *x, bool there, bool spare) {
    if (there && spare) copy_to_shared_sparing_cache(slot(step), x);
    if (there && !spare) copy_to_shared(slot(step), x);
    close_copies();
  }
  // The pack of `step`, kRingAhead steps after it was asked for; waits until it has come.
  __device__ __forceinline__ Packs<Pack, 1> get(uint32_t step) const {
    wait_for_copies<kRingAhead - 1>();
    const uint4 words = *slot(step);
    Packs<Pack, 1> pack;
    pack.packs[0].words[0] = words.x, pack.packs[0].words[1] = words.y;
    pack.packs[0].words[2] = words.z, pack.packs[0].words[3] = words.w;
    return pack;
  }

private:
  __device__ __forceinline__ uint4 *slot(uint32_t step) const { return slots + step % kRingSlots * kRingThreads; }
};

// The usual case: one row of `packs` packs, no bound, no power of two; `steps` packs a thread. All blocks step over
// the row together, to its end for the largest magnitude, then back: what came last is still there.
template <class Pack>
__global__ void __launch_bounds__(kRingThreads, 1)
    quantize_by_ring(const void *x, uint8_t *codes, float *scales, void *memory, uint32_t packs, uint32_t steps) {
  if constexpr (!kRunsHere<Start::kBehindLoads>) return; // nothing before has so much shared memory
  using Input = typename Pack::Input;
  using Word = MeetingWord<typename Pack::Storage>;
  __shared__ uint32_t slots[kMostWarps];
  __shared__ Agreed<typename Input::DivisionByOwnScale> agreed;
  auto &meeting = *static_cast<Meeting<Word> *>(memory);
  const UpToStreamed bound(packs - 1);
  const auto *all = static_cast<const typename Pack::Storage *>(x);
  const uint32_t step = gridDim.x * kRingThreads, mine = blockIdx.x * kRingThreads + threadIdx.x;
  const auto place = [&](uint32_t i) { return all + bound.at(i * step + mine, 0) * Pack::kElements; };
  Ring<Pack> ring{dynamic_shared_memory() + threadIdx.x};
  if (speaks()) look_ahead<Word>(meeting);
  wait_for_predecessor(all);
  uint32_t number = 0;
  if (speaks()) number = number_of<Word>(meeting);
  for (uint32_t i = 0; i < kRingAhead; ++i) ring.ask(i, place(i), i < steps, false);
  uint32_t largest = 0;
  for (uint32_t i = 0; i < steps; ++i) {
    largest = max(largest, ring.get(i).largest());
    const uint32_t ahead = i + kRingAhead;
    const bool stays = steps > kRingSlots && ahead + kRingSlots >= steps; // so that the L2 keeps what does not
    ring.ask(ahead, place(ahead), ahead < steps, stays);
  }
  let_successor_start();
  largest = max_of_block<true>(largest, slots);
  if (threadIdx.x == kWarp) leave<Word>(meeting);
  const auto of_all = agree<Input, Word>(meeting, number, largest, slots, agreed, scales, [&](uint32_t block) {
    uint32_t of_thread = 0;
#pragma unroll 8
    for (uint32_t i = 0; i < steps; ++i) {
      Packs<Pack, 1> one;
      one.load(all, i * step + block * kRingThreads + threadIdx.x, 0, bound);
      of_thread = max(of_thread, one.largest());
    }
    return of_thread;
  });
  for (uint32_t i = steps; i-- > 0;) {
    const Packs<Pack, 1> pack = ring.get(i);
    const uint32_t ahead = i - kRingAhead; // the last kRingSlots are still there
    ring.ask(ahead, place(ahead), i >= kRingAhead && ahead + kRingSlots < steps, false);
    pack.store(codes, i * step + mine, 0, bound, Scale{of_all.scale, true}, of_all.division);
  }
  if (speaks()) renew<Word>(meeting, number);
}

} // namespace fp8bench
