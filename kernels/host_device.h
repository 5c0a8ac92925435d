// The one attribute of every function that runs on the CPU and in CUDA kernels.
#pragma once

// Empty in a host compiler's build.
#ifndef SLUICE_HD
#ifdef __CUDACC__
#define SLUICE_HD __host__ __device__
#else
#define SLUICE_HD
#endif
#endif
