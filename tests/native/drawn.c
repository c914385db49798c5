/* Calls the kernels with drawn operands, in threads, and compares with plain loops.

   drawn SEED COUNT: COUNT calls of each kernel; status 1 where one differs. It is
   compiled with sanitizers, which a process of Python cannot have. */
#include "call.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

XLA_FFI_Error *dlrm_jax_multiply(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *dlrm_jax_pool(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *dlrm_jax_sparse(XLA_FFI_CallFrame *frame);
XLA_FFI_Error *dlrm_jax_update(XLA_FFI_CallFrame *frame);

/* XLA's threads: each task gets one, which may start late. Kernels see it as XLA's context, which is opaque to them. */
struct threads {
  int64_t threads;
  pthread_t running[64];
  int count;
};
struct task {
  XLA_FFI_Task *run;
  void *data;
};

static void *run_task(void *given) {
  struct task task = *(struct task *)given;
  free(given);
  task.run(task.data);
  return NULL;
}

static XLA_FFI_Error *schedule(XLA_FFI_ThreadPool_Schedule_Args *args) {
  struct task *task = malloc(sizeof *task);
  *task = (struct task){args->task, args->data};
  struct threads *ctx = (struct threads *)args->ctx;
  pthread_create(&ctx->running[ctx->count++], NULL, run_task, task);
  return NULL;
}

static XLA_FFI_Error *count_threads(XLA_FFI_ThreadPool_NumThreads_Args *args) {
  *args->num_threads = ((struct threads *)args->ctx)->threads;
  return NULL;
}

static XLA_FFI_Error *create_error(XLA_FFI_Error_Create_Args *args) {
  fprintf(stderr, "%s\n", args->message);
  exit(1);
}

static const XLA_FFI_Api api = {
    .XLA_FFI_Error_Create = create_error,
    .XLA_FFI_ThreadPool_Schedule = schedule,
    .XLA_FFI_ThreadPool_NumThreads = count_threads,
};

static uint64_t state;
static uint32_t drawn(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((state >> 33) % below);
}
static float drawn_float(void) { return (float)drawn(2001) / 1000 - 1; }

static float *drawn_floats(int64_t count) {
  float *x = malloc((count + 1) * sizeof *x);
  for (int64_t i = 0; i < count; i++) x[i] = drawn_float();
  return x;
}

static void *copied(const void *x, size_t bytes) {
  return memcpy(malloc(bytes + 1), x, bytes);
}

struct shape {
  int64_t rows, dim, examples, ids, bags, groups, counts[3], lengths[3];
};

static struct shape drawn_shape(void) {
  static const int64_t widths[] = {1, 3, 8, 16, 24, 32, 64, 100, 128, 144};
  struct shape s = {.rows = 1 + drawn(300), .dim = widths[drawn(10)],
                    .examples = drawn(4) ? 1 + drawn(60) : 300, .groups = 1 + drawn(3)};
  for (int64_t g = 0; g < s.groups; g++) {
    s.counts[g] = 1 + drawn(3);
    s.lengths[g] = drawn(2) ? 1 : drawn(12);
    s.bags += s.counts[g];
    s.ids += s.counts[g] * s.lengths[g];
  }
  return s;
}

static XLA_FFI_Buffer buffer(void *data, int64_t rank, int64_t *dims) {
  return (XLA_FFI_Buffer){sizeof(XLA_FFI_Buffer), NULL, XLA_FFI_DataType_F32, data, rank, dims};
}

/* Calls a kernel and waits for the threads that it asked for. */
static void call(XLA_FFI_Handler *kernel, int32_t kind, struct shape *s, void **args,
                 int64_t arg_count, void **rets, int64_t ret_count) {
  struct threads ctx = {.threads = 1 + drawn(5)};
  XLA_FFI_Array counts = {XLA_FFI_DataType_S64, s->groups, s->counts};
  XLA_FFI_Array lengths = {XLA_FFI_DataType_S64, s->groups, s->lengths};
  XLA_FFI_Scalar number = {XLA_FFI_DataType_S32, &kind};
  XLA_FFI_ByteSpan spans[] = {{"counts", 6}, {"kind", 4}, {"lengths", 7}};
  XLA_FFI_ByteSpan *names[] = {spans, spans + 1, spans + 2};
  void *attrs[] = {&counts, &number, &lengths};
  XLA_FFI_CallFrame frame = {.api = &api, .ctx = (XLA_FFI_ExecutionContext *)&ctx};
  frame.args.size = arg_count;
  frame.args.args = args;
  frame.rets.size = ret_count;
  frame.rets.rets = rets;
  frame.attrs.size = 3;
  frame.attrs.names = names;
  frame.attrs.attrs = attrs;
  kernel(&frame);
  for (int i = 0; i < ctx.count; i++) pthread_join(ctx.running[i], NULL);
}

static void compare(const char *what, const float *got, const float *want, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    if (fabsf(got[i] - want[i]) > 1e-4f * (1 + fabsf(want[i]))) {
      printf("%s differs at %ld: %g, expected %g\n", what, (long)i, got[i], want[i]);
      exit(1);
    }
  }
}

/* For each id its bag. */
static int32_t *bags_of(const struct shape *s) {
  int32_t *bags = malloc((s->examples * s->ids + 1) * sizeof *bags);
  int64_t at = 0, bag = 0;
  for (int64_t e = 0; e < s->examples; e++)
    for (int64_t g = 0; g < s->groups; g++)
      for (int64_t i = 0; i < s->counts[g]; i++, bag++)
        for (int64_t j = 0; j < s->lengths[g]; j++) bags[at++] = (int32_t)bag;
  return bags;
}

static int32_t *drawn_ids(const struct shape *s) {
  int64_t count = s->examples * s->ids;
  int32_t *ids = malloc((count + 1) * sizeof *ids);
  for (int64_t i = 0; i < count; i++)
    ids[i] = drawn(8) ? (int32_t)drawn((uint32_t)s->rows)
                      : (drawn(2) ? -1 - (int32_t)drawn(9) : (int32_t)(s->rows + drawn(9)));
  return ids;
}

static bool exists(const struct shape *s, int32_t id) { return id >= 0 && id < s->rows; }

/* Kinds of rows, as rows.h numbers them. */
enum { FLOAT32, FLOAT16, BFLOAT16, INT8, INT4, INT2, KINDS };
static const int64_t bits_of[] = {32, 16, 16, 8, 4, 2};

static float from_float16(uint16_t bits) {
  int exponent = bits >> 10 & 31;
  float number = (float)(bits & 1023) + (exponent ? 1024 : 0);
  float value = ldexpf(number, (exponent ? exponent : 1) - 25);
  return bits >> 15 ? -value : value;
}

/* One value of a table; lines: scale and bias of rows of codes. */
static float value_at(int kind, const void *table, const void *lines, int64_t row,
                      int64_t dim, int64_t column) {
  int64_t at = row * dim + column, bits = bits_of[kind];
  if (kind == FLOAT32) return ((const float *)table)[at];
  if (kind == FLOAT16) return from_float16(((const uint16_t *)table)[at]);
  if (kind == BFLOAT16) {
    uint32_t word = (uint32_t)((const uint16_t *)table)[at] << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
  }
  const float *line = (const float *)lines + 2 * row;
  const uint16_t *half = (const uint16_t *)lines + 2 * row;
  float scale = kind == INT8 ? line[0] : from_float16(half[0]);
  float bias = kind == INT8 ? line[1] : from_float16(half[1]);
  int byte = ((const uint8_t *)table)[at * bits / 8];
  return (float)(byte >> at * bits % 8 & ((1 << bits) - 1)) * scale + bias;
}

/* It has exactly so many bytes, so that a read beyond them is found. */
static void *drawn_table(int kind, int64_t bytes) {
  uint8_t *table = malloc(bytes);
  for (int64_t i = 0; i < bytes; i++) table[i] = (uint8_t)drawn(256);
  for (int64_t i = 0; kind < INT8 && i < bytes; i += bits_of[kind] / 8) {
    float x = drawn_float();
    uint16_t half = (uint16_t)(drawn(0x3c00) | drawn(2) << 15); /* below 1 */
    if (kind == FLOAT16) memcpy(table + i, &half, sizeof half);
    if (kind == FLOAT32) memcpy(table + i, &x, sizeof x);
    if (kind == BFLOAT16) memcpy(table + i, (const uint8_t *)&x + 2, 2);
  }
  return table;
}

static void try_pool(void) {
  struct shape s = drawn_shape();
  int kind = (int)drawn(KINDS);
  while (s.dim * bits_of[kind] % 8) s.dim++;
  int64_t count = s.examples * s.ids, bytes = s.dim * bits_of[kind] / 8;
  void *table = drawn_table(kind, s.rows * bytes);
  void *lines = kind == INT8 ? drawn_table(FLOAT32, s.rows * 8)
                             : drawn_table(FLOAT16, s.rows * 4);
  float *weights = drawn(2) ? drawn_floats(count) : NULL;
  int32_t *ids = drawn_ids(&s), *bags = bags_of(&s);
  float *got = malloc((s.examples * s.bags * s.dim) * sizeof *got);
  float *want = calloc(s.examples * s.bags * s.dim, sizeof *want);
  for (int64_t i = 0; i < count; i++)
    for (int64_t d = 0; exists(&s, ids[i]) && d < s.dim; d++)
      want[bags[i] * s.dim + d] +=
          (weights ? weights[i] : 1) * value_at(kind, table, lines, ids[i], s.dim, d);
  int64_t of_table[] = {s.rows, kind < INT8 ? s.dim : bytes}, of_lines[] = {s.rows, 2};
  int64_t of_ids[] = {s.examples, s.ids}, of_sums[] = {s.examples, s.bags, s.dim};
  XLA_FFI_Buffer operands[4];
  int n = 0;
  operands[n++] = buffer(table, 2, of_table);
  if (kind != FLOAT32)
    operands[0].dtype = kind < INT8 ? XLA_FFI_DataType_U16 : XLA_FFI_DataType_U8;
  if (kind >= INT8) operands[n++] = buffer(lines, 2, of_lines);
  if (kind > INT8) operands[1].dtype = XLA_FFI_DataType_U16;
  operands[n++] = buffer(ids, 2, of_ids);
  if (weights) operands[n++] = buffer(weights, 2, of_ids);
  XLA_FFI_Buffer sums = buffer(got, 3, of_sums);
  void *args[4], *rets[] = {&sums};
  for (int i = 0; i < n; i++) args[i] = operands + i;
  call(dlrm_jax_pool, kind, &s, args, n, rets, 1);
  compare("pool", got, want, s.examples * s.bags * s.dim);
  free(table), free(lines), free(weights), free(ids), free(bags), free(got), free(want);
}

/* One row by the definition of the optimizer. */
static void move(int kind, const float *n, float *row, float *first, float *second,
                 const float *g, int64_t dim) {
  float mean = 0;
  for (int64_t d = 0; d < dim; d++) mean += g[d] * g[d] / (float)dim;
  if (kind == 2) *first += mean;
  for (int64_t d = 0; d < dim; d++) {
    float direction = g[d];
    if (kind == 1) {
      first[d] += g[d] * g[d];
      direction = g[d] / (sqrtf(first[d]) + n[1]);
    } else if (kind == 2) {
      direction = g[d] / (sqrtf(*first) + n[1]);
    } else if (kind == 3) {
      first[d] = n[2] * first[d] + n[4] * g[d];
      second[d] = n[3] * second[d] + n[5] * g[d] * g[d];
      direction = first[d] / n[6] / (sqrtf(second[d] / n[7]) + n[1]);
    }
    row[d] += n[0] * direction;
  }
}

static void try_update(void) {
  struct shape s = drawn_shape();
  int kind = (int)drawn(4), states = kind == 3 ? 2 : kind > 0;
  int64_t count = s.examples * s.ids, size = s.rows * s.dim;
  int64_t width = kind == 2 ? 1 : s.dim;
  float numbers[] = {-0.1f, 1e-3f, 0.9f, 0.99f, 0.1f, 0.01f, 0.5f, 0.7f};
  float *arrays[3] = {drawn_floats(size)}, *want[3];
  for (int i = 1; i < 3; i++) {
    arrays[i] = drawn_floats(size);
    for (int64_t j = 0; j < size; j++) arrays[i][j] = fabsf(arrays[i][j]);
  }
  for (int i = 0; i < 3; i++) want[i] = copied(arrays[i], size * sizeof(float));
  float *grads = drawn_floats(s.examples * s.bags * s.dim);
  float *weights = drawn(2) ? drawn_floats(count) : NULL;
  int32_t *ids = drawn_ids(&s), *bags = bags_of(&s);
  float *sums = calloc(size, sizeof *sums);
  bool *read = calloc(s.rows, sizeof *read);
  for (int64_t i = 0; i < count; i++) {
    if (!exists(&s, ids[i])) continue;
    read[ids[i]] = true;
    for (int64_t d = 0; d < s.dim; d++)
      sums[ids[i] * s.dim + d] += (weights ? weights[i] : 1) * grads[bags[i] * s.dim + d];
  }
  for (int64_t r = 0; r < s.rows; r++)
    if (read[r])
      move(kind, numbers, want[0] + r * s.dim, want[1] + r * width, want[2] + r * width,
           sums + r * s.dim, s.dim);
  int64_t of_table[] = {s.rows, s.dim}, of_ids[] = {s.examples, s.ids};
  int64_t of_grads[] = {s.examples, s.bags, s.dim}, of_numbers[] = {8};
  XLA_FFI_Buffer operands[7];
  int n = 0;
  for (int i = 0; i <= states; i++) operands[n++] = buffer(arrays[i], 2, of_table);
  operands[n++] = buffer(ids, 2, of_ids);
  operands[n++] = buffer(grads, 3, of_grads);
  operands[n++] = buffer(numbers, 1, of_numbers);
  if (weights) operands[n++] = buffer(weights, 2, of_ids);
  void *args[7];
  for (int i = 0; i < n; i++) args[i] = operands + i;
  call(dlrm_jax_update, kind, &s, args, n, args, states + 1);
  compare("table", arrays[0], want[0], size);
  for (int i = 1; i <= states; i++) compare("state", arrays[i], want[i], s.rows * width);
  for (int i = 0; i < 3; i++) free(arrays[i]), free(want[i]);
  free(grads), free(weights), free(ids), free(bags), free(sums), free(read);
}

static uint64_t *drawn_integers(int64_t count) {
  uint64_t *x = malloc((count + 1) * sizeof *x);
  for (int64_t i = 0; i < count; i++)
    x[i] = drawn(8) ? (uint64_t)drawn(1u << 31) * drawn(1u << 31) * drawn(9) : -1ull;
  return x;
}

static void try_multiply(void) {
  int64_t m = 1 + drawn(150), k = 1 + drawn(drawn(9) ? 20 : 600), n = 1 + drawn(20);
  uint64_t *a = drawn_integers(m * k), *b = drawn_integers(k * n);
  uint64_t *got = malloc(m * n * sizeof *got);
  int64_t of_a[] = {m, 2 * k}, of_b[] = {k, 2 * n}, of_sums[] = {m, 2 * n};
  XLA_FFI_Buffer operands[] = {buffer(a, 2, of_a), buffer(b, 2, of_b)};
  XLA_FFI_Buffer sums = buffer(got, 2, of_sums);
  void *args[] = {operands, operands + 1}, *rets[] = {&sums};
  struct shape none = {0};
  call(dlrm_jax_multiply, 0, &none, args, 2, rets, 1);
  for (int64_t i = 0; i < m * n; i++) {
    uint64_t want = 0;
    for (int64_t j = 0; j < k; j++) want += a[i / n * k + j] * b[j * n + i % n];
    if (got[i] != want) {
      printf("multiply differs at %ld\n", (long)i);
      exit(1);
    }
  }
  free(a), free(b), free(got);
}

/* Lists of inputs, in order, for groups of one output or of sixteen. */
static void try_sparse(void) {
  int64_t examples = drawn(drawn(3) ? 40 : 300), depth = 1 + drawn(60);
  int64_t outputs = 1 + drawn(70), strip = drawn(2) ? 1 : 16;
  int64_t groups = (outputs + strip - 1) / strip, kept = 0;
  int32_t *inputs = malloc((groups * depth + 1) * sizeof *inputs);
  int32_t *starts = calloc(groups + 1, sizeof *starts);
  uint32_t share = drawn(5);
  for (int64_t g = 0; g < groups; g++) {
    for (int64_t i = 0; i < depth; i++)
      if (drawn(4) < share) inputs[kept++] = (int32_t)i;
    starts[g + 1] = (int32_t)kept;
  }
  float *x = drawn_floats(examples * depth), *weights = drawn_floats(kept * strip);
  float *got = malloc((examples * outputs + 1) * sizeof *got);
  float *want = calloc(examples * outputs + 1, sizeof *want);
  for (int64_t row = 0; row < examples; row++)
    for (int64_t o = 0; o < outputs; o++)
      for (int32_t i = starts[o / strip]; i < starts[o / strip + 1]; i++)
        want[row * outputs + o] +=
            weights[i * strip + o % strip] * x[row * depth + inputs[i]];
  int64_t of_x[] = {examples, depth}, of_weights[] = {kept, strip};
  int64_t of_starts[] = {groups + 1}, of_y[] = {examples, outputs};
  XLA_FFI_Buffer operands[] = {
      buffer(x, 2, of_x), buffer(weights, strip == 1 ? 1 : 2, of_weights),
      buffer(inputs, 1, of_weights), buffer(starts, 1, of_starts)};
  XLA_FFI_Buffer y = buffer(got, 2, of_y);
  void *args[] = {operands, operands + 1, operands + 2, operands + 3}, *rets[] = {&y};
  struct shape none = {0};
  call(dlrm_jax_sparse, 0, &none, args, 4, rets, 1);
  compare("sparse product", got, want, examples * outputs);
  free(inputs), free(starts), free(x), free(weights), free(got), free(want);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  state = strtoull(words[1], NULL, 10);
  int64_t calls = strtoll(words[2], NULL, 10);
  for (int64_t i = 0; i < calls; i++) {
    try_pool();
    try_update();
    try_multiply();
    try_sparse();
  }
  printf("%ld calls of each kernel\n", (long)calls);
  return 0;
}
