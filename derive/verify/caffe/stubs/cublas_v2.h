// What Caffe's headers name of cuBLAS, so that a layer which calls none of it compiles without the library.
#pragma once
typedef struct cublasContext* cublasHandle_t;
typedef int cublasStatus_t;
