// How do threads wait for each other? The block's barrier, warp operations, and what happens when
// nobody can go on.
#pragma once

namespace gt_runtime {

// ---- the block's barrier
struct Barrier {
  u32 generation, arrived, votes;
  int count, all, any;  // of the votes, when it was last passed
  const void* first_pc;
  int first_line;
  int first_thread;
};
static Barrier barrier;

static void pass_barrier() {
  ++now_counting->barriers;
  barrier.count = int(barrier.votes);
  barrier.all = barrier.votes == barrier.arrived;
  barrier.any = barrier.votes != 0;
  barrier.arrived = barrier.votes = 0;
  ++barrier.generation;
  count_banks();
  barrier_time = ++now;
  if (chosen_order == RANDOM) arrange(order, u32(thread_count));
}

static int first_that_ended() {
  for (int i = 0; i < thread_count; ++i)
    if (fibers[i].done) return i;
  return NO_THREAD;
}

static void report_ended_threads(const void* pc) {
  Facts f;
  f.pc = pc;
  f.other_thread = first_that_ended();
  report("divergent-barrier", f, "%d of %d threads ended before this barrier, the other thread first",
         thread_count - live_count, thread_count);
}

// ---- deadlock
struct Waiting {
  const char* where;
  u32 mask;
  int count, first;
};

[[noreturn]] static void report_deadlock() {
  Waiting groups[8];
  int n = 0;
  for (int i = 0; i < thread_count; ++i) {
    const Fiber& f = fibers[i];
    if (f.done) continue;
    int at = 0;
    while (at < n && (groups[at].where != f.where || groups[at].mask != f.mask)) ++at;
    if (at == 8) continue;
    if (at == n) groups[n++] = Waiting{f.where, f.mask, 0, i};
    ++groups[at].count;
  }
  char text[360] = "";
  usize used = 0;
  for (int at = 0; at < n && used < sizeof text; ++at) {
    const gt_index first = place_in(u32(groups[at].first), launch.block);
    used += usize(snprintf(text + used, sizeof text - used, "%s%d threads from (%u, %u, %u) on wait at %s",
                           at ? "; " : "", groups[at].count, first.x, first.y, first.z, groups[at].where));
    if (groups[at].mask && used < sizeof text)
      used += usize(snprintf(text + used, sizeof text - used, " with mask 0x%08x", groups[at].mask));
  }
  if (live_count < thread_count && used < sizeof text)
    snprintf(text + used, sizeof text - used, "; %d have ended", thread_count - live_count);
  Facts f;
  running_thread = n ? groups[0].first : NO_THREAD;
  if (n) f.pc = fibers[groups[0].first].pc;
  if (n > 1)
    f.other_thread = groups[1].first;
  else
    f.other_thread = first_that_ended();
  report("deadlock", f, "no thread of the block can go on: %s", text);
  finish();
}

// ---- waiting
static bool let_the_converged_go();

static void park(const u32* generation, const char* where, u32 mask, const void* pc) {
  Fiber* me = self;
  me->waits_for = generation;
  me->seen = *generation;
  me->where = where;
  me->mask = mask;
  me->pc = pc;
  me->patience = 0;
  Fiber* next = next_ready();
  if (!next && let_the_converged_go()) next = next_ready();
  if (!next) report_deadlock();
  if (next != me) switch_to(next);
  me->waits_for = nullptr;
}

// ---- warps
struct Group {
  u32 mask, arrived, generation;
  const char* name;
  const void* pc;
  gt_compute compute;
  gt_exchange exchange;
};

struct Meeting {
  int line;
  u32 arrived, generation;
};

struct Warp {
  u32 live;
  Group groups[32];
  Meeting meetings[32];
};
static Warp warps[MAX_THREADS / 32];

static Warp& own_warp() { return warps[self->linear >> 5]; }

static const void* passed_pc;  // where the lanes are whose operation is being computed

static void pass_group(Warp& w, Group& g) {
  passed_pc = g.pc;
  const u32 lanes = g.arrived;
  g.arrived = 0;
  ++g.generation;
  if (g.compute) {
    g.exchange.lanes = lanes;
    g.compute(&g.exchange);
  } else {
    ++now;
    const int first = int(&w - warps) * 32;
    for (int l = 0; l < 32; ++l)
      if (lanes >> l & 1) fibers[first + l].synced = now;
  }
}

static Group& group_for(Warp& w, u32 mask, const char* name, gt_compute compute, const void* pc) {
  Group* free_group = nullptr;
  for (Group& g : w.groups) {
    if (!g.arrived) {
      if (!free_group) free_group = &g;
    } else if (g.mask == mask) {
      return g;
    }
  }
  // There are as many groups as lanes, and each lane waits in one at most
  free_group->mask = mask;
  free_group->name = name;
  free_group->compute = compute;
  free_group->pc = pc;
  return *free_group;
}

static u32 checked_mask(u32 mask, const char* name, const void* pc) {
  const u32 own = 1u << self->lane;
  if (!(mask & own)) {
    Facts f;
    f.pc = pc;
    report("warp-mask", f, "it calls %s with mask 0x%08x, in which its lane %u is missing", name, mask, self->lane);
  }
  return mask | own;
}

static void check_partner(const Group& g, const char* name, const void* pc) {
  if (!g.arrived || !strcmp(g.name, name)) return;
  Facts f;
  f.pc = pc;
  f.other_thread = (self->linear & ~31) + __builtin_ctz(g.arrived);
  report("warp-divergence", f, "it is at %s, the other thread of its warp at %s", name, g.name);
}

static void meet(u32 mask, const char* name, const void* given, void* taken, int number, int width, gt_compute compute,
                 const void* pc) {
  settle();
  mask = checked_mask(mask, name, pc);
  Warp& w = own_warp();
  Group& g = group_for(w, mask, name, compute, pc);
  check_partner(g, name, pc);
  const u32 l = self->lane;
  g.exchange.given[l] = given;
  g.exchange.taken[l] = taken;
  g.exchange.number[l] = number;
  g.exchange.width = width;
  g.arrived |= 1u << l;
  if (g.arrived == (mask & w.live))
    pass_group(w, g);
  else
    park(&g.generation, name, mask, pc);
}

// ---- __activemask: the lanes that come to the same place before nobody else can move
static void close_meeting(Warp& w, Meeting& m) {
  const int first = int(&w - warps) * 32;
  for (int l = 0; l < 32; ++l)
    if (m.arrived >> l & 1) fibers[first + l].converged = m.arrived;
  m.arrived = 0;
  ++m.generation;
}

static bool let_the_converged_go() {
  for (int i = 0; i * 32 < thread_count; ++i) {
    bool any = false;
    for (Meeting& m : warps[i].meetings)
      if (m.arrived) {
        close_meeting(warps[i], m);
        any = true;
      }
    if (any) return true;
  }
  return false;
}

static u32 converge(int line, const void* pc) {
  Warp& w = own_warp();
  Meeting* m = nullptr;
  for (Meeting& k : w.meetings)
    if (k.arrived && k.line == line) m = &k;
  for (Meeting& k : w.meetings)
    if (!m && !k.arrived) m = &k;
  m->line = line;
  m->arrived |= 1u << self->lane;
  if (m->arrived == w.live)
    close_meeting(w, *m);
  else
    park(&m->generation, "__activemask", 0, pc);
  return self->converged;
}

// ---- a thread's end
static void end_thread() {
  Warp& w = own_warp();
  self->done = true;
  --live_count;
  w.live &= ~(1u << self->lane);
  for (Group& g : w.groups)
    if (g.arrived && g.arrived == (g.mask & w.live)) pass_group(w, g);
  if (live_count && barrier.arrived == u32(live_count)) {
    const int me = running_thread;
    running_thread = barrier.first_thread;
    report_ended_threads(barrier.first_pc);
    running_thread = me;
    pass_barrier();
  }
}

}  // namespace gt_runtime

using namespace gt_runtime;

extern "C" int gt_barrier(gt_vote vote, int predicate, int line) {
  const void* pc = __builtin_return_address(0);
  settle();
  if (!barrier.arrived) {
    barrier.first_pc = pc;
    barrier.first_line = line;
    barrier.first_thread = self->linear;
  } else if (line != barrier.first_line) {
    Facts f;
    f.pc = pc;
    f.other_thread = barrier.first_thread;
    report("divergent-barrier", f, "it waits at the barrier of line %d, the other thread at that of line %d", line,
           barrier.first_line);
  }
  barrier.votes += predicate != 0;
  if (++barrier.arrived == u32(live_count)) {
    if (live_count < thread_count) report_ended_threads(pc);
    pass_barrier();
    turn = thread_count - 1;  // after a barrier, the first thread is the first again
    let_others_run();
  } else {
    park(&barrier.generation, "__syncthreads", 0, pc);
  }
  return vote == GT_COUNT ? barrier.count : vote == GT_AND ? barrier.all : vote == GT_OR ? barrier.any : 0;
}

extern "C" void gt_warp_barrier(gt_u32 mask) {
  meet(mask, "__syncwarp", nullptr, nullptr, 0, 32, nullptr, __builtin_return_address(0));
}

extern "C" void gt_collective(gt_u32 mask, const char* name, const void* given, void* taken, int number, int width,
                              gt_compute compute) {
  meet(mask, name, given, taken, number, width, compute, __builtin_return_address(0));
}

extern "C" gt_u32 gt_converged(int line) { return converge(line, __builtin_return_address(0)); }

// Called while the last lane computes for all
extern "C" void gt_undefined_lane(int source, int reader, gt_size bytes, void* taken) {
  memset(taken, 0xff, bytes);
  const int first = self->linear & ~31, me = running_thread;
  running_thread = first + reader;
  Facts f;
  f.other_thread = first + source < thread_count ? first + source : NO_THREAD;
  f.pc = passed_pc;
  report("undefined-lane", f, "its shuffle reads lane %d, which does not take part", source);
  running_thread = me;
}

// What a lane of this warp did wrong
extern "C" void gt_warp_fault(const char* kind, int lane, const char* text) {
  settle();
  const int me = running_thread;
  running_thread = (self->linear & ~31) + lane;
  Facts f;
  f.pc = passed_pc;
  report(kind, f, "%s", text);
  running_thread = me;
}

extern "C" void gt_fence() {
  settle();
  self->released = ++now;
  if (record_count) records[record_count - 1].fenced = now;
}

extern "C" void gt_yield() { let_others_run(); }
