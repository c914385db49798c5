/* Products of a batch and a kernel of mostly zeros: f32[B, in] and the weights that
   are left -> f32[B, out]. Each group of outputs has a list of inputs, in order: of
   one output, with a weight for each input, or of sixteen that lie side by side,
   with a strip of sixteen weights. Sums go over the lists in order. */
#include "call.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Wider vectors would be halved, and compilers keep the halves in memory. */
typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8, STRIP = 16, VECTORS = STRIP / LANES };

/* Of strips: examples whose sums are in registers, and examples of a part. */
enum { ROWS = 4, ROWS_OF_PART = 64 };

/* Of single weights: examples that are multiplied at once, which fill vectors; of
   fewer than FEW, each is multiplied by itself. */
enum { TILE = 32, TILE_VECTORS = TILE / LANES, FEW = 8 };

enum { LEAST_PRODUCTS = 1 << 15 }; /* of a thread */

struct sparse {
  const float *x, *weights;
  const int32_t *inputs, *starts; /* list g: inputs[starts[g]] to [starts[g + 1]] */
  float *y;
  int64_t examples, depth, outputs, groups;
  int64_t slices; /* of the groups, in each piece of the batch */
  atomic_bool no_memory;
};

/* A part of the work: examples from `first`, groups from `group` on. */
struct part {
  int64_t first, last, group, end;
};

static struct part part_of(const struct sparse *s, int64_t number, int64_t examples) {
  int64_t first = number / s->slices * examples, slice = number % s->slices;
  return (struct part){
      first,
      first + examples < s->examples ? first + examples : s->examples,
      s->groups * slice / s->slices,
      s->groups * (slice + 1) / s->slices,
  };
}

ALWAYS_INLINE void multiply_strips(const struct sparse *s, const struct part *p,
                                   int64_t row, const int rows) {
  const float *x = s->x + row * s->depth;
  for (int64_t g = p->group; g < p->end; g++) {
    vector sums[ROWS][VECTORS] = {0};
    for (int32_t i = s->starts[g]; i < s->starts[g + 1]; i++) {
      const vector *strip = (const vector *)(s->weights + (int64_t)i * STRIP);
      const float *at = x + s->inputs[i];
      for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] += at[r * s->depth] * strip[v];
    }
    float *y = s->y + row * s->outputs + g * STRIP;
    int64_t width = s->outputs - g * STRIP;
    size_t bytes = (width < STRIP ? width : STRIP) * sizeof *y;
    for (int r = 0; r < rows; r++) memcpy(y + r * s->outputs, sums[r], bytes);
  }
}

FOR_EACH_TARGET
static void strips_part(void *data, int64_t number) {
  const struct sparse *s = data;
  struct part p = part_of(s, number, ROWS_OF_PART);
  int64_t row = p.first;
  for (; row + ROWS <= p.last; row += ROWS) multiply_strips(s, &p, row, ROWS);
  for (; row < p.last; row++) multiply_strips(s, &p, row, 1);
}

/* One example. Four sums at a time, as each addition waits for the one before. */
ALWAYS_INLINE void multiply_one(const struct sparse *s, const struct part *p,
                                int64_t row) {
  const float *x = s->x + row * s->depth;
  for (int64_t g = p->group; g < p->end; g++) {
    int32_t i = s->starts[g], end = s->starts[g + 1];
    float sums[4] = {0};
    for (; i + 4 <= end; i += 4)
      for (int k = 0; k < 4; k++) sums[k] += s->weights[i + k] * x[s->inputs[i + k]];
    for (; i < end; i++) sums[0] += s->weights[i] * x[s->inputs[i]];
    s->y[row * s->outputs + g] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

/* Up to TILE examples; `x` is their transpose, [depth][TILE]. */
ALWAYS_INLINE void multiply_tile(const struct sparse *s, const struct part *p,
                                 const float *x) {
  for (int64_t group = p->group; group < p->end; group += STRIP) {
    int64_t count = p->end - group < STRIP ? p->end - group : STRIP;
    float found[STRIP][TILE];
    for (int64_t g = 0; g < count; g++) {
      const int32_t *starts = s->starts + group + g;
      vector sums[TILE_VECTORS] = {0};
      for (int32_t i = starts[0]; i < starts[1]; i++) {
        const vector *at = (const vector *)(x + (int64_t)s->inputs[i] * TILE);
        for (int v = 0; v < TILE_VECTORS; v++) sums[v] += s->weights[i] * at[v];
      }
      memcpy(found[g], sums, sizeof sums);
    }
    for (int64_t row = p->first; row < p->last; row++)
      for (int64_t g = 0; g < count; g++)
        s->y[row * s->outputs + group + g] = found[g][row - p->first];
  }
}

FOR_EACH_TARGET
static void singles_part(void *data, int64_t number) {
  struct sparse *s = data;
  struct part p = part_of(s, number, TILE);
  if (s->examples < FEW) {
    for (int64_t row = p.first; row < p.last; row++) multiply_one(s, &p, row);
    return;
  }
  float *x = calloc(s->depth * TILE, sizeof *x);
  if (x == NULL) {
    atomic_store(&s->no_memory, true);
    return;
  }
  for (int64_t row = p.first; row < p.last; row++)
    for (int64_t i = 0; i < s->depth; i++)
      x[i * TILE + row - p.first] = s->x[row * s->depth + i];
  multiply_tile(s, &p, x);
  free(x);
}

/* Operands: x, weights f32[n] or f32[n, STRIP], inputs i32[n], starts
   i32[groups + 1]. */
XLA_FFI_Error *dlrm_jax_sparse(XLA_FFI_CallFrame *frame) {
  if (answered_metadata(frame)) return NULL;
  const XLA_FFI_Buffer *x = operand(frame, 0), *weights = operand(frame, 1);
  const XLA_FFI_Buffer *starts = operand(frame, 3), *y = result(frame, 0);
  bool strips = weights->rank == 2;
  struct sparse s = {
      .x = x->data,
      .weights = weights->data,
      .inputs = operand(frame, 2)->data,
      .starts = starts->data,
      .y = y->data,
      .examples = x->dims[0],
      .depth = x->dims[1],
      .outputs = y->dims[1],
      .groups = starts->dims[0] - 1,
      .slices = 1,
  };
  atomic_init(&s.no_memory, false);
  int64_t of_part = strips ? ROWS_OF_PART : TILE;
  int64_t pieces = (s.examples + of_part - 1) / of_part, threads = thread_count(frame);
  int64_t products = weights->dims[0] * (strips ? STRIP : 1) * s.examples;
  if (threads > products / LEAST_PRODUCTS) threads = products / LEAST_PRODUCTS;
  if (pieces > 0 && pieces < threads) s.slices = (threads + pieces - 1) / pieces;
  void (*work)(void *, int64_t) = strips ? strips_part : singles_part;
  if (threads > 1)
    run_parts(frame, pieces * s.slices, work, &s);
  else
    for (int64_t part = 0; part < pieces; part++) work(&s, part);
  if (atomic_load(&s.no_memory))
    return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
                   "dlrm_jax_sparse: no memory for a piece of the batch");
  return NULL;
}
