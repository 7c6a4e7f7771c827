// What do kernel code and the runtime know of each other? The kernel's text is compiled once for
// each program, the runtime once for each compiler; these declarations are all they share.
#pragma once

typedef unsigned char gt_u8;
typedef unsigned short gt_u16;
typedef unsigned int gt_u32;
typedef unsigned long long gt_u64;
typedef __SIZE_TYPE__ gt_size;

#ifndef __VECTOR_TYPES_H__  // NVIDIA's headers bring their own
struct uint3 {
  unsigned int x, y, z;
};
struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};
#endif

// Three numbers that fit two registers: what a function returns is no memory access.
struct gt_index {
  unsigned int x, y, z;
};

// How a parameter of a kernel is passed, for the check of launches.
enum gt_kind { GT_INTEGER, GT_FLOAT, GT_POINTER, GT_OTHER };

struct gt_parameter {
  gt_kind kind;
  gt_size bytes;
};

struct gt_kernel {
  const char* name;
  void (*call)(void** args);
  int count;
  const gt_parameter* params;
};

// All warp collectives take part in one rendezvous; the last lane to arrive computes for all.
struct gt_exchange {
  gt_u32 lanes;           // bit l: lane l takes part
  const void* given[32];  // what each lane brought
  void* taken[32];        // where its result goes
  int number[32];         // a source lane, a distance, ...
  int width;
};
typedef void (*gt_compute)(gt_exchange*);

extern "C" {
extern const gt_kernel gt_kernels[];  // ends with a null name; defined beside the kernels

// Constant while a thread lives, so that the compiler may ask once.
__attribute__((const)) gt_index gt_thread_index(void);
__attribute__((const)) gt_index gt_block_index(void);
__attribute__((const)) gt_index gt_block_shape(void);
__attribute__((const)) gt_index gt_grid_shape(void);
__attribute__((const)) gt_u32 gt_lane(void);
__attribute__((const)) void* gt_dynamic_shared(void);

enum gt_vote { GT_NO_VOTE, GT_COUNT, GT_AND, GT_OR };
// Lines tell barriers apart, whatever the compiler makes of the calls.
int gt_barrier(gt_vote vote, int predicate, int line);
void gt_warp_barrier(gt_u32 mask);
gt_u32 gt_converged(int line);  // which lanes are there together
void gt_collective(gt_u32 mask, const char* name, const void* given, void* taken, int number,
                   int width, gt_compute compute);
void gt_undefined_lane(int source, int reader, gt_size bytes, void* taken);
void gt_warp_fault(const char* kind, int lane, const char* text);  // of a lane of this warp
void gt_fence(void);
void gt_yield(void);
gt_u64 gt_clock(void);

// An atomic operation reads, computes and writes with no other thread in between.
void gt_atomic_read(const void* p, void* value, gt_size bytes);
void gt_atomic_write(void* p, const void* value, gt_size bytes);

// Copies that land when they are waited for: `bytes` are written, all but `from` of them zeros.
void gt_async_copy(void* to, const void* from, gt_size bytes, gt_size zeros);
void gt_async_commit(void);
void gt_async_wait(int groups_left);

void gt_trap(void);
void gt_assertion(const char* text, const char* file, int line);
}
