/* module.cpp - model/cuda and its test door, for the host. */
#include "module.cu"
