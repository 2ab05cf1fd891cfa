"""Programs as CUDA kernels, and how they run on a GPU or on the emulator of one."""
