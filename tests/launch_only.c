/* A libcuda that launches nothing: it counts launches, and refuses the grids that CUDA refuses. */
typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream, *attributes;
  unsigned count;
} Launch;

static const int SUCCESS = 0, INVALID_VALUE = 1;
static long launched;
static unsigned last[3];

long launches(void) { return launched; }
unsigned last_grid(int axis) { return last[axis]; }

int cuLaunchKernelEx(const Launch *launch, void *function, void **arguments, void **extra) {
  const unsigned most[3] = {2147483647u, 65535u, 65535u};
  launched++;
  for (int axis = 0; axis < 3; axis++) {
    last[axis] = launch->grid[axis];
    if (launch->grid[axis] == 0 || launch->grid[axis] > most[axis]) return INVALID_VALUE;
  }
  return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { *text = "invalid argument"; return SUCCESS; }
/* What Triton's module names and a launch does not call. */
#define UNUSED(name) int name(void) { return INVALID_VALUE; }
UNUSED(cuCtxGetDevice) UNUSED(cuCtxGetLimit) UNUSED(cuCtxSetLimit) UNUSED(cuDeviceGet) UNUSED(cuDeviceGetAttribute)
UNUSED(cuDevicePrimaryCtxRetain) UNUSED(cuDriverGetVersion) UNUSED(cuFuncGetAttribute) UNUSED(cuFuncSetAttribute)
UNUSED(cuFuncSetCacheConfig) UNUSED(cuInit) UNUSED(cuModuleGetFunction) UNUSED(cuModuleLoadData) UNUSED(cuModuleUnload)
UNUSED(cuOccupancyMaxActiveClusters) UNUSED(cuStreamIsCapturing) UNUSED(cuTensorMapEncodeIm2col)
UNUSED(cuTensorMapEncodeTiled)
int cuCtxGetCurrent(void **context) { *context = (void *)1; return SUCCESS; }
int cuCtxSetCurrent(void *context) { return SUCCESS; }
int cuPointerGetAttribute(void *data, int attribute, unsigned long long pointer) {
  *(unsigned long long *)data = pointer;
  return SUCCESS;
}
