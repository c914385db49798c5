/* The update of the rows that a batch reads, in place.

   Each part owns the rows whose hash falls to it. It links the places of each of
   its rows, then takes one row after the other: sums its gradients in the order
   of the batch, moves its state, and adds to it. So the result does not depend on
   the number of parts, and no row is written by two threads. */
#include "call.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 8 };

enum kind { SGD, ADAGRAD, ROWWISE_ADAGRAD, ADAM };

/* The numbers of a step, as they come from JAX. */
struct numbers {
  float step; /* minus the learning rate */
  float eps;  /* of Adagrad and Adam */
  float decay[2];      /* of the two moments of Adam */
  float rest[2];       /* 1 - decay, rounded once */
  float correction[2]; /* of their bias, at this step */
};

struct update {
  enum kind kind;
  const struct numbers *numbers;
  float *table, *state, *second; /* f32[R, D]; row-wise Adagrad: f32[R] */
  uint32_t rows;
  int64_t dim;
  const int32_t *ids; /* i32[B, K] */
  const float *weights; /* f32[B, K]; NULL: all are 1 */
  const float *grads; /* f32[B, G, D] */
  int64_t examples, ids_of_example, bags;
  struct groups groups;
  int64_t parts;
  atomic_bool no_memory;
};

/* A place of a row in the batch; the places of a row form a list. */
struct place {
  int32_t row, bag, next;
  float weight;
};

/* A row of a part, and its first place; no row: -1. */
struct slot {
  int32_t row, first;
};

/* As `rows.mix32`. */
ALWAYS_INLINE uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

ALWAYS_INLINE bool owns(const struct update *u, int64_t part, uint32_t row) {
  uint64_t owner = ((uint64_t)mixed(row) * (uint64_t)u->parts) >> 32;
  return (row < u->rows) & (owner == (uint64_t)part);
}

/* Collects the places of all rows of a part, in the order of the batch. There
   must be room for one more, which is written and left. */
ALWAYS_INLINE void collect(const struct update *u, int64_t part, struct place *places) {
  int64_t count = 0, at = 0;
  int32_t bag = 0;
  for (int64_t example = 0; example < u->examples; example++) {
    for (int64_t g = 0; g < u->groups.size; g++) {
      for (int64_t i = 0; i < u->groups.counts[g]; i++, bag++) {
        for (int64_t j = 0; j < u->groups.lengths[g]; j++, at++) {
          float weight = u->weights == NULL ? 1 : u->weights[at];
          places[count] = (struct place){u->ids[at], bag, -1, weight};
          count += owns(u, part, (uint32_t)u->ids[at]); /* no branch */
        }
      }
    }
  }
}

/* Links the places of each row, and lists the slots of the distinct rows. The
   last place is linked first, so that a list begins with the first one. */
ALWAYS_INLINE int64_t link_places(struct place *places, int64_t count,
                                  struct slot *slots, uint32_t mask, uint32_t *found) {
  int64_t distinct = 0;
  for (int64_t i = count - 1; i >= 0; i--) {
    if (i >= AHEAD)
      __builtin_prefetch(slots + (mixed((uint32_t)places[i - AHEAD].row) & mask), 1);
    int32_t row = places[i].row;
    uint32_t s = mixed((uint32_t)row) & mask;
    while (slots[s].row >= 0 && slots[s].row != row) s = (s + 1) & mask;
    if (slots[s].row < 0) {
      slots[s] = (struct slot){row, -1};
      found[distinct++] = s;
    }
    places[i].next = slots[s].first;
    slots[s].first = (int32_t)i;
  }
  return distinct;
}

/* The gradient of a row: in `sum`, or where it lies if it is a single one. */
ALWAYS_INLINE const float *summed(const struct update *u,
                                  const struct place *places, int32_t first,
                                  float *sum) {
  const struct place *place = places + first;
  const float *grads = u->grads + place->bag * u->dim;
  if (place->next < 0 && u->weights == NULL) return grads;
  if (u->weights == NULL)
    memcpy(sum, grads, u->dim * sizeof *sum);
  else
    for (int64_t d = 0; d < u->dim; d++) sum[d] = place->weight * grads[d];
  while (place->next >= 0) {
    place = places + place->next;
    grads = u->grads + place->bag * u->dim;
    if (u->weights == NULL)
      for (int64_t d = 0; d < u->dim; d++) sum[d] += grads[d];
    else
      for (int64_t d = 0; d < u->dim; d++) sum[d] += place->weight * grads[d];
  }
  return sum;
}

ALWAYS_INLINE float mean_square(const float *g, int64_t dim) {
  floats squares = {0};
  int64_t d = 0;
  for (; d + WIDE <= dim; d += WIDE) {
    floats x = *(const floats *)(g + d);
    squares += x * x;
  }
  float total = 0;
  for (int i = 0; i < WIDE; i++) total += squares[i];
  for (; d < dim; d++) total += g[d] * g[d];
  return total / (float)dim;
}

ALWAYS_INLINE void move_row(const struct update *u, int64_t row,
                            const float *restrict g) {
  const struct numbers n = *u->numbers;
  const int64_t dim = u->dim;
  float *restrict values = u->table + row * dim;
  if (u->kind == SGD) {
    for (int64_t d = 0; d < dim; d++) values[d] += n.step * g[d];
  } else if (u->kind == ROWWISE_ADAGRAD) {
    float sum = u->state[row] += mean_square(g, dim);
    float step = n.step / (sqrtf(sum) + n.eps);
    for (int64_t d = 0; d < dim; d++) values[d] += step * g[d];
  } else if (u->kind == ADAGRAD) {
    float *restrict sum = u->state + row * dim;
    for (int64_t d = 0; d < dim; d++) {
      float total = sum[d] + g[d] * g[d];
      sum[d] = total;
      values[d] += n.step * (g[d] / (sqrtf(total) + n.eps));
    }
  } else {
    float *restrict mean = u->state + row * dim;
    float *restrict square = u->second + row * dim;
    for (int64_t d = 0; d < dim; d++) {
      float m = n.decay[0] * mean[d] + n.rest[0] * g[d];
      float v = n.decay[1] * square[d] + n.rest[1] * (g[d] * g[d]);
      mean[d] = m;
      square[d] = v;
      m /= n.correction[0];
      v /= n.correction[1];
      values[d] += n.step * (m / (sqrtf(v) + n.eps));
    }
  }
}

/* Begins to read a row and its state. */
ALWAYS_INLINE void prefetch(const struct update *u, int64_t row) {
  for (int64_t d = 0; d < u->dim; d += WIDE) {
    __builtin_prefetch(u->table + row * u->dim + d, 1);
    if (u->kind == ADAGRAD || u->kind == ADAM)
      __builtin_prefetch(u->state + row * u->dim + d, 1);
    if (u->kind == ADAM) __builtin_prefetch(u->second + row * u->dim + d, 1);
  }
  if (u->kind == ROWWISE_ADAGRAD) __builtin_prefetch(u->state + row, 1);
}

FOR_EACH_TARGET
static void update_part(void *data, int64_t part) {
  struct update *u = data;
  int64_t all = u->examples * u->ids_of_example, count = 0;
  for (int64_t i = 0; i < all; i++) count += owns(u, part, (uint32_t)u->ids[i]);
  if (count == 0) return;
  uint32_t size = 2;
  while (size < 2 * (uint64_t)count) size *= 2;
  struct slot *slots = malloc(size * sizeof *slots);
  struct place *places = malloc((count + 1) * sizeof *places);
  uint32_t *found = malloc(count * sizeof *found);
  float *sum = malloc(u->dim * sizeof *sum);
  if (slots == NULL || places == NULL || found == NULL || sum == NULL) {
    atomic_store(&u->no_memory, true);
  } else {
    memset(slots, -1, size * sizeof *slots);
    collect(u, part, places);
    int64_t distinct = link_places(places, count, slots, size - 1, found);
    for (int64_t i = distinct - 1; i >= 0; i--) {
      if (i >= AHEAD) prefetch(u, slots[found[i - AHEAD]].row);
      struct slot slot = slots[found[i]];
      move_row(u, slot.row, summed(u, places, slot.first, sum));
    }
  }
  free(slots);
  free(places);
  free(found);
  free(sum);
}

enum { LEAST_IDS = 256, MOST_PARTS = 32, MOST_PLACES = 1 << 30 };

/* Operands: table, states of the kind, ids, grads, numbers (, weights). Results:
   table and states, which must be the operands themselves. */
XLA_FFI_Error *dlrm_jax_update(XLA_FFI_CallFrame *frame) {
  if (answered_metadata(frame)) return NULL;
  const XLA_FFI_Scalar *kind = attribute(frame, "kind");
  int states = (int)frame->rets.size - 1;
  const XLA_FFI_Buffer *table = operand(frame, 0);
  const XLA_FFI_Buffer *ids = operand(frame, states + 1);
  const XLA_FFI_Buffer *grads = operand(frame, states + 2);
  for (int i = 0; i <= states; i++) {
    if (operand(frame, i)->data != result(frame, i)->data)
      return failure(frame, XLA_FFI_Error_Code_INTERNAL,
                     "dlrm_jax_update: XLA has copied a table or its state");
  }
  struct update u = {
      .kind = *(const int32_t *)kind->value,
      .numbers = operand(frame, states + 3)->data,
      .table = table->data,
      .state = states > 0 ? operand(frame, 1)->data : NULL,
      .second = states > 1 ? operand(frame, 2)->data : NULL,
      .dim = grads->dims[2],
      .ids = ids->data,
      .weights = frame->args.size > states + 4 ? operand(frame, states + 4)->data : NULL,
      .grads = grads->data,
      .examples = ids->dims[0],
      .ids_of_example = ids->dims[1],
      .bags = grads->dims[1],
  };
  if (u.examples * u.ids_of_example > MOST_PLACES || u.examples * u.bags > MOST_PLACES)
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   "dlrm_jax_update: more than 2^30 ids or bags in a batch");
  if (!read_groups(frame, u.ids_of_example, u.bags, &u.groups))
    return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                   "dlrm_jax_update: the groups do not fit the ids");
  u.rows = (uint32_t)(table->dims[0] * table->dims[1] / u.dim);
  u.parts = thread_count(frame);
  if (u.parts > MOST_PARTS) u.parts = MOST_PARTS;
  int64_t most = u.examples * u.ids_of_example / LEAST_IDS;
  if (u.parts > most) u.parts = most;
  if (u.parts < 1) u.parts = 1;
  atomic_init(&u.no_memory, false);
  run_parts(frame, u.parts, update_part, &u);
  if (atomic_load(&u.no_memory))
    return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
                   "dlrm_jax_update: no memory for the places of rows");
  return NULL;
}
