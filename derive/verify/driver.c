// Calls every function of a generated layer with batches of odd sizes, in memory of exactly their size, for
// AddressSanitizer and UndefinedBehaviorSanitizer to watch; and with wrong arguments, which must be refused;
// and asks for every status in words.
// Macros: STEM, HEADER, REAL, SUFFIX, PARAMETERS, and WRONG_PARAMETERS, a WRONG(...) for each such list.
#include HEADER

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN(stem, name, suffix) stem##_##name##_##suffix
#define NAMED(stem, name, suffix) JOIN(stem, name, suffix)
#define CALL(name) NAMED(STEM, name, SUFFIX)
#define WORDS(stem) stem##_message
#define WORDS_OF(stem) WORDS(stem)

enum { ARRAYS = 12 };
enum { OK, NULL_POINTER, MISALIGNED, OVERLAP, BAD_SHAPE, BAD_PARAMETER };

static void is(int status, int wanted, const char *what)
{
    if (status == wanted) return;
    fprintf(stderr, "%s returned %d, not %d\n", what, status, wanted);
    exit(1);
}

static void expect(int status, const char *what) { is(status, OK, what); }

// Numbers of [-1, 1), the same on every run.
static REAL next_number(void)
{
    static unsigned long long state = 1;
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (REAL)((double)(state >> 40) / (1 << 23) - 1);
}

// `offset` says how far from the beginning of what malloc returned a batch begins.
static void run(size_t rows, size_t dim, size_t offset)
{
    REAL *held[ARRAYS], *at[ARRAYS];
    for (int i = 0; i < ARRAYS; ++i) {
        const size_t size = (i < 9 ? rows * dim : rows) + offset;
        held[i] = malloc((size ? size : 1) * sizeof **held);
        if (!held[i]) exit(1);
        for (size_t k = 0; k < size; ++k) held[i][k] = next_number();
        at[i] = held[i] + offset;
    }
    if (rows > 2) {  // squares that leave the range; no number; and a row that is left out
        for (size_t k = 0; k < dim; ++k) at[0][k] *= sizeof(REAL) == 4 ? (REAL)1e30 : (REAL)1e200;
        at[1][dim] = (REAL)NAN;
        at[9][2] = 0;
    }
    REAL total;
    expect(CALL(forward)(at[0], at[1], at[2], at[10], rows, dim PARAMETERS), "forward");
    for (int weighted = 0; weighted < 2; ++weighted) {
        const REAL *upstream = weighted ? at[9] : NULL;
        expect(CALL(forward_backward)(at[0], at[1], at[2], upstream, 1, at[10], at[3], at[4], at[5], rows,
                                      dim PARAMETERS), "forward_backward");
        expect(CALL(reduce)(at[10], upstream, 1, &total, rows), "reduce");
        expect(CALL(active)(at[10], upstream, at[11], rows), "active");
        expect(CALL(hvp)(at[0], at[1], at[2], at[6], at[7], at[8], upstream, 1, at[3], at[4], at[5], rows,
                         dim PARAMETERS), "hvp");
    }
    for (int i = 0; i < ARRAYS; ++i) free(held[i]);
}

// x, x_pos, x_neg, upstream, loss and the gradients.
static int tried(void *const *at, size_t rows, size_t dim)
{
    return CALL(forward_backward)(at[0], at[1], at[2], at[3], 1, at[4], at[5], at[6], at[7], rows, dim PARAMETERS);
}

static int with(void *const *right, int changed, void *pointer)
{
    void *at[8];
    for (int i = 0; i < 8; ++i) at[i] = i == changed ? pointer : right[i];
    return tried(at, 3, 5);
}

static void refuse(void)
{
    REAL numbers[8][15];
    void *at[8], *const none[8] = { 0 };
    for (int i = 0; i < 8; ++i) {
        at[i] = numbers[i];
        for (int k = 0; k < 15; ++k) numbers[i][k] = next_number();
    }
    is(tried(at, 3, 5), OK, "a right call");
    is(tried(none, 0, 5), OK, "no rows");
    is(with(at, 3, NULL), OK, "no upstream");
    for (int i = 0; i < 8; ++i) {
        if (i != 3) is(with(at, i, NULL), NULL_POINTER, "a null pointer");
        is(with(at, i, (char *)at[i] + 1), MISALIGNED, "a misaligned pointer");
    }
    is(with(at, 5, at[0]), OVERLAP, "a gradient in the place of x");
    is(with(at, 6, numbers[7] + 1), OVERLAP, "gradients that overlap");
    is(with(at, 4, numbers[1] + 14), OVERLAP, "a loss in the last of x_pos");
    is(with(at, 3, at[4]), OVERLAP, "upstream in the place of the loss");
    is(tried(at, 3, 0), BAD_SHAPE, "no components");
    is(tried(at, (size_t)-1, 5), BAD_SHAPE, "minus one row");
    is(tried(at, 3, (size_t)-1), BAD_SHAPE, "minus one component");
    const size_t most = PTRDIFF_MAX / sizeof(REAL) / 5;
    is(tried(none, most, 5), NULL_POINTER, "as many rows as there can be");
    is(tried(none, most + 1, 5), BAD_SHAPE, "one row more");
    is(CALL(forward)(at[0], at[1], at[2], at[2], 3, 5 PARAMETERS), OVERLAP, "losses in the place of x_neg");
    is(CALL(hvp)(at[0], at[1], at[2], at[3], at[4], at[5], NULL, 1, at[6], at[7], at[5], 3, 5 PARAMETERS), OVERLAP,
       "a product in the place of v_neg");
    REAL total;
    is(CALL(reduce)(at[4], at[3], 1, &total, (size_t)-1), BAD_SHAPE, "a sum of minus one row");
    is(CALL(reduce)(at[4], at[3], 1, numbers[4] + 14, 15), OVERLAP, "a total in the last of the losses");
    is(CALL(reduce)(at[4], numbers[3], 1, numbers[3] + 14, 15), OVERLAP, "a total in the last of upstream");
    is(CALL(reduce)(NULL, NULL, 1, NULL, 0), NULL_POINTER, "no total of no rows");
    is(CALL(active)(at[4], at[3], at[5], (size_t)-1), BAD_SHAPE, "shares of minus one row");
    is(CALL(active)(at[4], at[3], at[4], 15), OVERLAP, "shares in the place of the losses");
    is(CALL(active)(at[4], at[3], numbers[3] + 1, 14), OVERLAP, "shares that overlap upstream");
    is(CALL(active)(at[4], at[3], at[3], 15), OK, "shares in the place of upstream");
#define WRONG(...) \
    is(CALL(forward_backward)(at[0], at[1], at[2], NULL, 1, at[4], at[5], at[6], at[7], 3, 5, __VA_ARGS__), \
       BAD_PARAMETER, "parameters " #__VA_ARGS__);
    WRONG_PARAMETERS
}

static void tell(void)
{
    for (int one = OK; one <= BAD_PARAMETER; ++one) {
        for (int other = one + 1; other <= BAD_PARAMETER + 1; ++other) {
            if (strcmp(WORDS_OF(STEM)(one), WORDS_OF(STEM)(other))) continue;
            fprintf(stderr, "%d and %d are the same in words\n", one, other);
            exit(1);
        }
    }
}

int main(void)
{
    refuse();
    tell();
    const size_t dims[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 255, 256, 257, 511, 512, 513, 1100 };
    for (size_t rows = 0; rows < 5; ++rows) {
        for (size_t i = 0; i < sizeof dims / sizeof *dims; ++i) {
            for (size_t offset = 0; offset < 2; ++offset) run(rows, dims[i], offset);
        }
    }
    run(100, 1, 0);
    return 0;
}
