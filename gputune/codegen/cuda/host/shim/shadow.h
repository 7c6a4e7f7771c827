// Is this memory access right? For every few bytes of shared and global memory the shadow knows who
// wrote and who read last, and when. Two accesses of different threads, one of them a write, are a
// race unless a barrier, a __syncwarp, or a fence with atomic operations lies between them.
//
// Time (`now`) passes at barriers and between blocks, which run one after another. So an access is
// of another block if it is older than this block's start, and before the last barrier if it is
// older than that.
#pragma once

namespace gt_runtime {

enum How : unsigned { READ = 0, WRITE = 1, ATOMIC = 2, BY_COPY = 4 };

enum Flag : u16 {
  WAS_ATOMIC = 1,
  IN_FLIGHT = 2,       // an asynchronous copy that was not waited for
  SEVERAL = 4,         // read by several threads of one warp
  SEVERAL_WARPS = 8,   // read by threads of several warps
  EARLIER_BLOCK = 16,  // read by an earlier block of this launch, too
  PUBLISHED = 32,      // updated atomically after a fence: whoever updates it next learns of it
  UNPUBLISHED = 64,    // an earlier block updated it atomically, and never passed a fence afterwards
};

struct Mark {
  u32 when;  // 0: never
  u16 thread;
  u16 flags;
};

struct Cell {
  Mark write, read;
};

// ---- blocks of this launch, by the time at which they started
struct BlockRecord {
  u32 start, block;
  u32 fenced;     // time of its last fence
  u32 published;  // when it first updated something atomically after a fence; 0: never
  u32 covered;    // what its threads did before that time is known to those who learn of it
  u32 own_covered;  // the same for what `publisher` did
  int publisher;  // SEVERAL_THREADS: any
};
constexpr int SEVERAL_THREADS = -2;
static BlockRecord* records;
static u32 record_count, record_room;
static u32 block_acquired;     // the newest publication that a thread of this block has learned of,
static u32 block_acquired_at;  // and when the first one did

static void record_block(u32 block) {
  if (record_count == record_room) {
    record_room = record_room ? record_room * 2 : 1024;
    records = (BlockRecord*)realloc(records, record_room * sizeof(BlockRecord));
    if (!records) give_up("no memory is left");
  }
  records[record_count++] = BlockRecord{now, block, 0, 0, 0, 0, NO_THREAD};
  block_acquired = block_acquired_at = 0;
}

static const BlockRecord& block_at(u32 when) {
  u32 low = 0, high = record_count;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    (records[middle].start <= when ? low : high) = middle;
  }
  return records[low];
}

// ---- cells
static Cell* map_cells(usize count) {
  return (Cell*)must_map(nullptr, whole_pages(count * sizeof(Cell) + 1), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static usize cells_at(const Region& r, int shift) { return (usize(r.end - r.begin) >> shift) + 2; }

// Regions start with a cell for each element, or four bytes. Narrower accesses need finer cells: what
// is known so far holds for each part.
static void refine(Region& r, int shift) {
  Cell* fine = map_cells(cells_at(r, shift));
  if (r.cells) {
    const usize coarse = cells_at(r, r.shift);
    const usize parts = usize(1) << (r.shift - shift), count = cells_at(r, shift);
    for (usize i = 0; i < coarse; ++i) {
      if (!r.cells[i].write.when && !r.cells[i].read.when) continue;
      for (usize k = i * parts; k < (i + 1) * parts && k < count; ++k) fine[k] = r.cells[i];
    }
    munmap(r.cells, whole_pages(coarse * sizeof(Cell) + 1));
  }
  r.cells = fine;
  r.shift = shift;
}

static void drop_cells(Region& r) {
  if (r.cells) munmap(r.cells, whole_pages(cells_at(r, r.shift) * sizeof(Cell) + 1));
  r.cells = nullptr;
}

static int log2_of(usize n) { return n >= 4 ? 2 : n >= 2 ? 1 : 0; }

static void fit_cells(Region& r, usize offset, usize bytes) {
  if (!r.cells) refine(r, log2_of(r.item ? usize(r.item) : 4));
  int shift = r.shift;
  while (shift && ((offset | bytes) & ((usize(1) << shift) - 1))) --shift;
  if (shift < r.shift) refine(r, shift);
}

// ---- what lies between two accesses?
static bool same_warp(int a, int b) { return a >> 5 == b >> 5; }

// Did a thread of an earlier block pass a fence after `m`, and then update something atomically?
static bool was_published(const Mark& m) {
  const BlockRecord& b = block_at(m.when);
  const bool own = b.publisher == m.thread || b.publisher == SEVERAL_THREADS;
  return b.published && (m.when < b.covered || (own && m.when < b.own_covered));
}

// Does this thread know of all that another did, since that one passed a fence and then updated
// atomically what this one has updated since?
static bool handed_over(const Mark& m) {
  if (m.when >= block_start) {
    const u32 released = fibers[m.thread].released;
    return released > m.when && self->acquired >= released;
  }
  const BlockRecord& b = block_at(m.when);
  if (block_acquired < b.published) return false;
  if (self->acquired < b.published && block_acquired_at >= barrier_time) return false;
  return was_published(m);
}

// An atomic operation of this thread on a cell that was last updated as `m` says; is what it leaves
// a publication?
static bool hand_over(const Mark& m) {
  const bool learned = m.flags & PUBLISHED && m.when >= launch_start;
  if (learned) {
    if (self->acquired < m.when) self->acquired = m.when;
    if (block_acquired < m.when) block_acquired = m.when;
    if (!block_acquired_at) block_acquired_at = now;
  }
  BlockRecord& b = records[record_count - 1];
  // Its own fence does, or one of any thread before the last barrier
  const bool fenced = self->released || (b.fenced && b.fenced < barrier_time);
  if (fenced) {
    if (!b.published) b.published = now;
    b.covered = barrier_time;
    if (self->released > b.own_covered) b.own_covered = self->released;
    b.publisher = b.publisher == NO_THREAD || b.publisher == self->linear ? self->linear : SEVERAL_THREADS;
  }
  return learned || fenced;
}

static bool ordered(const Mark& m) {
  if (m.when < block_start) return handed_over(m);
  if (m.thread == self->linear || m.when < barrier_time) return true;
  const u32 other = fibers[m.thread].synced, own = self->synced;
  if (same_warp(m.thread, self->linear) && (other < own ? other : own) > m.when) return true;
  return handed_over(m);
}

// ---- reports
// Whether two writes differ is known only when the second has happened: at the next event.
struct PendingWrite {
  bool there;
  const u8* at;
  usize bytes;
  u8 before[16];
  Facts facts;
  const Region* region;
};
static PendingWrite pending;

static const char* verb(unsigned how) {
  return how & ATOMIC ? "updates atomically" : how & BY_COPY ? "copies to" : how & WRITE ? "writes" : "reads";
}

static void describe_race(const Region& r, const Facts& f, const char* now_does, const char* earlier, const char* but) {
  const char* kind = r.shared ? "shared-race" : "global-race";
  if (f.other_block != NO_BLOCK)
    report(kind, f, "it %s an element that another block of the launch %s%s", now_does, earlier, but);
  else
    report(kind, f, "it %s an element that %s thread of the block %s, with no barrier between%s", now_does,
           f.other_thread == NO_THREAD ? "another" : "the other", earlier, but);
}

static void settle() {
  if (!pending.there) return;
  pending.there = false;
  const bool same = pending.bytes <= 16 && !memcmp(pending.at, pending.before, pending.bytes);
  pending.facts.warning = same;
  describe_race(*pending.region, pending.facts, "writes", "wrote", same ? " (the same value)" : "");
}

static Facts facts_of(const Region& r, const void* address, usize bytes, const void* pc) {
  Facts f;
  f.buffer = r.name;
  f.element = element_of(r, address, bytes);
  f.pc = pc;
  return f;
}

static void blame(Facts& f, const Mark& m, bool thread_known) {
  if (m.when < block_start) f.other_block = block_at(m.when).block;
  if (thread_known && !(m.flags & UNPUBLISHED)) f.other_thread = m.thread;
}

static bool conflicts_with_write(const Region& r, const Mark& w, unsigned how) {
  if (w.when < launch_start || (r.shared && w.when < block_start)) return false;
  if (how & ATOMIC && w.flags & WAS_ATOMIC) return false;
  if (!r.shared && w.flags & UNPUBLISHED) return true;
  return !ordered(w);
}

static bool conflicts_with_reads(const Region& r, const Mark& m) {
  if (m.when < launch_start) return false;
  if (!r.shared) {
    if (m.when < block_start) return !handed_over(m);
    if (m.flags & EARLIER_BLOCK && !block_acquired) return true;
  }
  if (m.when < block_start || m.when < barrier_time) return false;
  if (m.flags & SEVERAL_WARPS) return true;
  if (m.flags & SEVERAL) return !(same_warp(m.thread, self->linear) && self->synced > m.when);
  return !ordered(m);
}

static void note_read(Mark& m) {
  const int me = self->linear;
  const u16 kept = m.when >= launch_start && (m.when < block_start || m.flags & EARLIER_BLOCK) ? EARLIER_BLOCK : 0;
  if (m.when < barrier_time || m.when < block_start) {
    m = Mark{now, u16(me), kept};
  } else if (m.thread == me) {
    m.when = now;
  } else if (!same_warp(m.thread, me)) {
    m.flags |= SEVERAL_WARPS;
    m.when = now;
  } else if (!(m.flags & SEVERAL_WARPS) && ordered(m)) {
    m = Mark{now, u16(me), kept};
  } else {
    m.flags |= SEVERAL;
    m.when = now;
  }
}

// ---- one cell
static void check_write_race(Region& r, const Cell& c, const void* address, usize bytes, unsigned how, const void* pc) {
  if (conflicts_with_write(r, c.write, how)) {
    Facts f = facts_of(r, address, bytes, pc);
    blame(f, c.write, true);
    if (how == WRITE && !(c.write.flags & WAS_ATOMIC) && !pending.there) {
      pending = PendingWrite{true, (const u8*)address, bytes, {}, f, &r};
      memcpy(pending.before, address, bytes < 16 ? bytes : 16);
    } else {
      describe_race(r, f, verb(how), c.write.flags & WAS_ATOMIC ? "updated atomically" : "wrote", "");
    }
  } else if (conflicts_with_reads(r, c.read)) {
    Facts f = facts_of(r, address, bytes, pc);
    blame(f, c.read, c.read.thread != self->linear);
    describe_race(r, f, verb(how), "read", "");
  }
}

static u16 atomic_flags(const Mark& m) {
  const u16 flags = hand_over(m) ? WAS_ATOMIC | PUBLISHED : WAS_ATOMIC;
  if (m.when < launch_start) return flags;
  const bool lost = m.flags & UNPUBLISHED || (m.when < block_start && !was_published(m));
  return lost ? flags | UNPUBLISHED : flags;
}

static bool is_defined(const Region& r, const Cell& c) {
  return r.defined || (r.shared ? c.write.when >= block_start : c.write.when != 0);
}

static void check_cell(Region& r, Cell& c, const void* address, usize bytes, unsigned how, const void* pc) {
  if (c.write.flags & IN_FLIGHT && c.write.when >= block_start) {
    Facts f = facts_of(r, address, bytes, pc);
    f.other_thread = c.write.thread;
    report("in-flight", f, "it %s an element to which an asynchronous copy of the other thread is under way", verb(how));
  }
  if ((!(how & WRITE) || how & ATOMIC) && !is_defined(r, c))
    report("uninitialised-read", facts_of(r, address, bytes, pc), "it %s an element that nothing has written%s",
           verb(how), r.shared ? " in this block" : "");
  if (how & WRITE) {
    u16 flags = how & BY_COPY ? IN_FLIGHT : 0;
    if (how & ATOMIC) flags = atomic_flags(c.write);
    check_write_race(r, c, address, bytes, how, pc);
    c.write = Mark{now, u16(self->linear), flags};
  } else {
    if (conflicts_with_write(r, c.write, how)) {
      Facts f = facts_of(r, address, bytes, pc);
      blame(f, c.write, true);
      describe_race(r, f, "reads", c.write.flags & WAS_ATOMIC ? "updated atomically" : "wrote", "");
    }
    note_read(c.read);
  }
}

// ---- one access
static bool in_the_program(const void* address);  // hooks.h

static void report_stray(const void* address, usize bytes, unsigned how, const void* pc) {
  if (self->bounds_reported) {  // the array's own bounds told more
    self->bounds_reported = false;
    return;
  }
  Region* near = slot_of(address);
  if (near) {
    Facts f = facts_of(*near, address, bytes, pc);
    report("out-of-bounds", f, "it %s element %lld of %s, which has %lld elements", verb(how), f.element, near->name,
           elements_of(*near, bytes));
  } else {
    Facts f;
    f.pc = pc;
    const char* where = usize(address) < PAGE ? "a null pointer" : "memory that belongs to no buffer";
    report("out-of-bounds", f, "it %s %zu bytes at %p: %s", verb(how), bytes, address, where);
  }
}

// Was the program compiled with checks?
static bool checking;

// Checks the access, which has not happened yet, of the thread that runs.
static void check_access(const void* address, usize bytes, unsigned how, const void* pc) {
  settle();
  if (!checking || !self || on_a_stack(address)) return;
  if (!(how & ATOMIC)) lose_patience(1);
  Region* r = region_of(address);
  if (!r || (const u8*)address + bytes > r->end) {
    if (r || !in_the_program(address)) report_stray(address, bytes, how, pc);
    return;
  }
  self->bounds_reported = false;
  if (r->ignored) return;
  if (how & WRITE && !r->writable) {
    report("write-to-input", facts_of(*r, address, bytes, pc), "it %s %s, which the program declares as an input",
           verb(how), r->name);
    return;
  }
  if (counting_banks && !(how & ATOMIC)) log_touch(*r, address, bytes, how & WRITE, pc);
  const usize offset = usize((const u8*)address - r->begin);
  fit_cells(*r, offset, bytes);
  const usize first = offset >> r->shift, last = (offset + bytes - 1) >> r->shift;
  const usize unit = usize(1) << r->shift, item = r->item > 4 ? usize(r->item) : unit;
  for (usize i = first; i <= last; ++i)
    check_cell(*r, r->cells[i], bytes > item ? r->begin + i * unit : (const u8*)address, bytes > item ? item : bytes, how, pc);
}

static void check_alignment(const void* address, usize bytes, unsigned how, const void* pc) {
  if (!checking || !self || !(usize(address) & (bytes - 1)) || on_a_stack(address)) return;
  settle();
  Region* r = region_of(address);
  if (!r) return;
  report("misaligned", facts_of(*r, address, r->item ? r->item : 1, pc),
         "it %s %zu bytes at once at an address that is no multiple of %zu", verb(how), bytes, bytes);
  if (bytes == 16) finish();  // this processor refuses it as a GPU does
}

}  // namespace gt_runtime
