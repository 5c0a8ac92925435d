// The one attribute of every function that runs on the CPU and, later, in a CUDA kernel.
#pragma once

// Empty on the host. A CUDA build defines it as __host__ __device__.
#ifndef SLUICE_HD
#define SLUICE_HD
#endif
