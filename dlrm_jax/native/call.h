/* Calls from XLA: operands, attributes, errors, and work in several threads. */
#ifndef DLRM_JAX_CALL_H
#define DLRM_JAX_CALL_H

#include <stdbool.h>
#include <stdint.h>

#include "xla/ffi/api/c_api.h"

/* Code for several instruction sets, of which the loader takes the best. */
#if defined(DLRM_JAX_ONE_TARGET) || !defined(__x86_64__) || !defined(__gnu_linux__)
#define FOR_EACH_TARGET
#else
#define FOR_EACH_TARGET __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Sixteen floats at any address. */
typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
enum { WIDE = 16 };

/* What XLA asks of a handler before the first call; true: it was that. */
bool answered_metadata(XLA_FFI_CallFrame *frame);

XLA_FFI_Error *failure(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code,
                       const char *message);

static inline const XLA_FFI_Buffer *operand(const XLA_FFI_CallFrame *frame, int i) {
  return frame->args.args[i];
}

static inline const XLA_FFI_Buffer *result(const XLA_FFI_CallFrame *frame, int i) {
  return frame->rets.rets[i];
}

/* An attribute by its name: an XLA_FFI_Scalar or an XLA_FFI_Array; or NULL. */
const void *attribute(const XLA_FFI_CallFrame *frame, const char *name);

/* Consecutive bags of equal length in each example. */
struct groups {
  int64_t size;
  const int64_t *counts;
  const int64_t *lengths;
};

/* Reads the attributes `counts` and `lengths`; false: they do not fit `ids` ids
   and `bags` bags an example. */
bool read_groups(const XLA_FFI_CallFrame *frame, int64_t ids, int64_t bags,
                 struct groups *groups);

/* Number of threads that XLA computes with. */
int64_t thread_count(const XLA_FFI_CallFrame *frame);

/* Runs work(data, part) for each of the parts, in this thread and in those of
   XLA, and returns when all are done. */
void run_parts(const XLA_FFI_CallFrame *frame, int64_t parts,
               void (*work)(void *data, int64_t part), void *data);

#endif
