/* A libnvidia-ml.so.1 for tests: one GPU and one MIG slice of it, in the state that a test sets through fake_*.
 * Built with -DOLD it lacks the memory query, as a driver that is too old does. */
#include <stdio.h>
#include <string.h>

typedef unsigned long long u64;

static u64 total = 16ull << 30, available = 8ull << 30;
static int init_code, handle_code, memory_code, good_queries, alive, inits, queries;

void fake_memory(u64 total_bytes, u64 free_bytes, int code) { total = total_bytes; available = free_bytes; memory_code = code; good_queries = 0; }
void fake_memory_later(int good, int code) { memory_code = code; good_queries = queries + good; }
void fake_init(int code) { init_code = code; }
void fake_handle(int code) { handle_code = code; }
void fake_forget(void) { alive = 0; }
int fake_alive(void) { return alive; }
int fake_inits(void) { return inits; }
int fake_queries(void) { return queries; }

int nvmlInitWithFlags(unsigned flags) { inits++; if (init_code) return init_code; alive++; return 0; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!alive) return 1; alive--; return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { if (!alive) return 1; snprintf(out, size, "580.00"); return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  if (!alive) return 1;
  if (handle_code) return handle_code;
  if (!strcmp(uuid, "GPU-whole")) { *handle = (void *)1; return 0; }
  if (!strcmp(uuid, "MIG-slice")) { *handle = (void *)2; return 0; }
  return 6;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **handle) {
  if (!alive) return 1;
  if (strcmp(bus_id, "0000:01:00.0")) return 6;
  *handle = (void *)1;
  return 0;
}
#ifndef OLD
struct memory { u64 total, free, used; };
int nvmlDeviceGetMemoryInfo(void *handle, struct memory *out) {
  queries++;
  if (!alive) return 1;
  if (memory_code && queries > good_queries) return memory_code;
  u64 share = handle == (void *)2 ? 4 : 1; /* the slice has a quarter of all */
  out->total = total / share;
  out->free = available / share;
  out->used = out->total - out->free;
  return 0;
}
#endif
const char *nvmlErrorString(int code) { return "fake"; }
