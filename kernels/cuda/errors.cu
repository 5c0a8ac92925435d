#include "kernels/cuda/launch.h"
