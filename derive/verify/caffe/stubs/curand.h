// What Caffe's headers name of cuRAND, so that a layer which calls none of it compiles without the library.
#pragma once
typedef struct curandGenerator_st* curandGenerator_t;
typedef int curandStatus_t;
