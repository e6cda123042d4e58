/* module.cpp - model/cuda and the door of its tests, for the host. */
#include "../cuda/door.cu"
