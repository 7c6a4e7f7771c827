// How often do the lanes of a warp meet in a bank of shared memory, and how many sectors of global
// memory do they touch? Accesses of lanes are logged between barriers; those of one instruction (and
// one turn of its loop) belong together. Counted in a few blocks of each launch: this is a statistic.
#pragma once

namespace gt_runtime {

struct Touch {
  const void* pc;
  const Region* region;
  u32 word;  // address of the first word, in words
  u16 turn;  // how often this thread was at this instruction before
  u8 words;
  bool write;
};

constexpr u32 LOG_ROOM = 2048;  // accesses of a thread between barriers; later ones are not counted
constexpr u32 COUNTED_BLOCKS = 2;

struct Log {
  Touch* touches;
  u32 count;
};
static Log logs[MAX_THREADS];
static bool counting_banks;

static void log_touch(const Region& region, const void* address, usize bytes, bool write, const void* pc) {
  Log& log = logs[self->linear];
  if (!log.touches && !(log.touches = (Touch*)malloc(LOG_ROOM * sizeof(Touch)))) give_up("no memory is left");
  if (log.count == LOG_ROOM || bytes > 16) {
    ++now_counting->uncounted;
    return;
  }
  u32 turn = 0;
  for (u32 i = log.count; i-- > 0;)
    if (log.touches[i].pc == pc) {
      turn = log.touches[i].turn + 1u;
      break;
    }
  log.touches[log.count++] =
      Touch{pc, &region, u32(usize(address) >> 2), u16(turn), u8(bytes > 4 ? bytes / 4 : 1), write};
}

// The hardware serves 32 words at a time: all lanes, half of them for 8 bytes, a quarter for 16.
// It repeats for every further word that a bank must deliver.
static void count_shared(const Touch* const* lanes, u32 words, Traffic& traffic) {
  const u32 together = 32 / words;
  for (u32 first = 0; first < 32; first += together) {
    u32 in_bank[32][32], n[32] = {}, worst = 0;
    for (u32 l = first; l < first + together; ++l) {
      if (!lanes[l]) continue;
      for (u32 w = 0; w < words; ++w) {
        const u32 word = lanes[l]->word + w, bank = word & 31;
        bool known = false;
        for (u32 k = 0; k < n[bank] && !known; ++k) known = in_bank[bank][k] == word;
        if (known || n[bank] == 32) continue;
        in_bank[bank][n[bank]++] = word;
        if (n[bank] > worst) worst = n[bank];
      }
    }
    if (!worst) continue;
    ++now_counting->shared_requests;
    now_counting->bank_conflicts += worst - 1;
    traffic.units += worst;
  }
}

// Global memory is read and written in sectors of 32 bytes; each that a lane touches is asked for once.
static void count_global(const Touch* const* lanes, u32 words, Traffic& traffic) {
  u32 found[160], n = 0;
  for (u32 l = 0; l < 32; ++l) {
    if (!lanes[l]) continue;
    for (u32 s = lanes[l]->word >> 3; s <= (lanes[l]->word + words - 1) >> 3; ++s) {
      bool known = false;
      for (u32 k = n; k-- > 0 && !known;) known = found[k] == s;
      if (!known) found[n++] = s;
    }
  }
  ++now_counting->global_requests;
  now_counting->global_sectors += n;
  traffic.units += n;
}

static void count_warp(int first, int n) {
  // Each lane's log is in the order of its program: the same access is at or after the same place.
  u32 seen[32] = {};
  for (int l = 0; l < n; ++l) {
    const Log& own = logs[first + l];
    for (; seen[l] < own.count; ++seen[l]) {
      const Touch& t = own.touches[seen[l]];
      if (!t.words) continue;  // counted with a lane before
      const Touch* lanes[32] = {};
      const u32 words = t.words;
      for (int k = l; k < n; ++k) {
        Log& other = logs[first + k];
        for (u32 i = seen[k]; i < other.count; ++i) {
          Touch& u = other.touches[i];
          if (u.pc != t.pc || u.turn != t.turn || u.words != words || u.write != t.write) continue;
          lanes[k] = &u;
          if (i == seen[k] && k != l) ++seen[k];
          break;
        }
      }
      Traffic& traffic = traffic_of(t.region->name, t.write, t.region->shared);
      ++traffic.requests;
      if (t.region->shared)
        count_shared(lanes, words, traffic);
      else
        count_global(lanes, words, traffic);
      for (int k = l; k < n; ++k)
        if (lanes[k]) const_cast<Touch*>(lanes[k])->words = 0;
    }
  }
}

static void count_banks() {
  if (!counting_banks) return;
  for (int first = 0; first < thread_count; first += 32) {
    const int n = thread_count - first < 32 ? thread_count - first : 32;
    count_warp(first, n);
    for (int l = 0; l < n; ++l) logs[first + l].count = 0;
  }
}

}  // namespace gt_runtime
