#include "call.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Of the calls, as native/__init__.py knows them. */
int dlrm_jax_version(void) { return 3; }

/* The versions of XLA's interface that have all that is used here; later ones
   are said to add and to change nothing. */
enum { MAJOR = 0, MINOR = 1 };

bool answered_metadata(XLA_FFI_CallFrame *frame) {
  /* The type has other names in other versions of the header. */
  __typeof__(frame->extension_start) extension = frame->extension_start;
  if (extension == NULL || extension->type != XLA_FFI_Extension_Metadata)
    return false;
  XLA_FFI_Metadata *about = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
  about->api_version.major_version = MAJOR;
  about->api_version.minor_version = MINOR;
  about->traits = 0;
  return true;
}

XLA_FFI_Error *failure(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code,
                       const char *message) {
  XLA_FFI_Error_Create_Args args = {sizeof args, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&args);
}

const void *attribute(const XLA_FFI_CallFrame *frame, const char *name) {
  for (int64_t i = 0; i < frame->attrs.size; i++) {
    const XLA_FFI_ByteSpan *found = frame->attrs.names[i];
    if (found->len == strlen(name) && !memcmp(found->ptr, name, found->len))
      return frame->attrs.attrs[i];
  }
  return NULL;
}

bool read_groups(const XLA_FFI_CallFrame *frame, int64_t ids, int64_t bags,
                 struct groups *groups) {
  const XLA_FFI_Array *counts = attribute(frame, "counts");
  const XLA_FFI_Array *lengths = attribute(frame, "lengths");
  if (counts == NULL || lengths == NULL || counts->size != lengths->size)
    return false;
  *groups = (struct groups){(int64_t)counts->size, counts->data, lengths->data};
  for (int64_t i = 0; i < groups->size; i++) {
    ids -= groups->counts[i] * groups->lengths[i];
    bags -= groups->counts[i];
  }
  return ids == 0 && bags == 0;
}

static void forget(const XLA_FFI_CallFrame *frame, XLA_FFI_Error *error) {
  XLA_FFI_Error_Destroy_Args args = {sizeof args, NULL, error};
  frame->api->XLA_FFI_Error_Destroy(&args);
}

int64_t thread_count(const XLA_FFI_CallFrame *frame) {
  int64_t count = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {sizeof args, NULL, frame->ctx, &count};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error != NULL) {
    forget(frame, error);
    return 1;
  }
  return count < 1 ? 1 : count;
}

/* Work that several threads share. A thread of XLA may come late or never, so
   the job lives until the last one that was asked has looked, and the caller
   waits for no part that nobody has begun: it does those itself. */
struct job {
  void (*work)(void *data, int64_t part);
  void *data;
  int64_t parts;
  atomic_int_fast64_t next;
  atomic_int_fast64_t done;
  atomic_int_fast64_t owners;
};

static void release(struct job *job) {
  if (atomic_fetch_sub_explicit(&job->owners, 1, memory_order_acq_rel) == 1)
    free(job);
}

static void take_parts(struct job *job) {
  for (;;) {
    int64_t part = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    if (part >= job->parts) return;
    job->work(job->data, part);
    atomic_fetch_add_explicit(&job->done, 1, memory_order_release);
  }
}

static void help(void *data) {
  struct job *job = data;
  take_parts(job);
  release(job);
}

void run_parts(const XLA_FFI_CallFrame *frame, int64_t parts,
               void (*work)(void *data, int64_t part), void *data) {
  int64_t helpers = thread_count(frame) - 1;
  if (helpers > parts - 1) helpers = parts - 1;
  struct job *job = helpers > 0 ? malloc(sizeof *job) : NULL;
  if (job == NULL) {
    for (int64_t part = 0; part < parts; part++) work(data, part);
    return;
  }
  job->work = work;
  job->data = data;
  job->parts = parts;
  atomic_init(&job->next, 0);
  atomic_init(&job->done, 0);
  atomic_init(&job->owners, helpers + 1);
  for (int64_t i = 0; i < helpers; i++) {
    XLA_FFI_ThreadPool_Schedule_Args args = {sizeof args, NULL, frame->ctx, help, job};
    XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
    if (error != NULL) {
      forget(frame, error);
      release(job);
    }
  }
  take_parts(job);
  while (atomic_load_explicit(&job->done, memory_order_acquire) < parts)
    sched_yield();
  release(job);
}
