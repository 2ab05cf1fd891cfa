/* A libcuda.so.1 for tests: two devices at most, whose facts a test sets through fake_*.
 * Covers the calls that detection makes, which need no context. Nothing can be allocated or launched. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static int init_code, version = 13010, count = 1, major = 9, minor = 0, integrated, mode, mig;

void fake_init(int code) { init_code = code; }
void fake_version(int number) { version = number; }
void fake_count(int number) { count = number; }
void fake_capability(int first, int second) { major = first; minor = second; }
void fake_traits(int is_integrated, int compute_mode, int is_mig) { integrated = is_integrated; mode = compute_mode; mig = is_mig; }

int cuInit(unsigned flags) { return init_code; }
int cuDriverGetVersion(int *out) { *out = version; return 0; }
int cuDeviceGetCount(int *out) { *out = count; return 0; }
int cuDeviceGet(int *out, int ordinal) { *out = ordinal; return ordinal < count ? 0 : 101; }
int cuDeviceGetName(char *out, int size, int device) { snprintf(out, size, "Fake GPU %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t *out, int device) { *out = (size_t)16 << 30; return 0; }
int cuDeviceGetPCIBusId(char *out, int size, int device) { snprintf(out, size, "0000:%02x:00.0", device + 1); return 0; }
int cuDeviceGetUuid(unsigned char *out, int device) { memset(out, 0x10 + device, 16); return 0; }
int cuDeviceGetUuid_v2(unsigned char *out, int device) { memset(out, (mig ? 0xA0 : 0x10) + device, 16); return 0; }
int cuGetErrorName(int code, const char **out) { *out = "CUDA_ERROR_FAKE"; return 0; }
int cuDeviceGetAttribute(int *out, int attribute, int device) {
  switch (attribute) {
  case 18: *out = integrated; return 0;
  case 20: *out = mode; return 0;
  case 75: *out = major; return 0;
  case 76: *out = minor; return 0;
  default: return 1;
  }
}
